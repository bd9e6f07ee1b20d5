#!/bin/sh
# Asks of files what shells ask, and prints what came of it.
#
# usage: probe.sh DIR       where DIR holds the small tree of `shim_apis.rs`
cd "$1" || exit 2
umask 022
set --
say() { # WHAT COMMAND...: whether it goes well
    what=$1
    shift
    if "$@" 2>/dev/null; then echo "$what: yes"; else echo "$what: no"; fi
}
for path in text dir link none dir/none text/x libs/../text link/one programs/tool; do
    for test in -e -f -d -L -r -w -x -s; do say "$test $path" test "$test" "$path"; done
done
say newer test text -nt none
say same test link/one -ef dir/one
echo ./* dir/* l*/one many/3? [d-m]*/ none*
for file in dir/*; do echo "$file"; done
cat <text
while read -r line; do echo "read $line"; done <dir/one
echo more >>text
echo new >dir/new
(set -C; echo clobber >dir/one) 2>/dev/null || echo "not clobbered"
cat text dir/new
echo "$(cat dir/one) $(cat <<HERE
here
HERE
)"
cd link && pwd | sed 's:.*/::' && pwd -P | sed 's:.*/::' && cd deep && cat three ../one && cd ../..
cd -P link && pwd | sed 's:.*/::' && cd ..
CDPATH=$PWD/dir && (cd deep >/dev/null && ls) && CDPATH=
PATH=programs:$PATH
tool one two
command -v tool
(exec tool three)
. ./programs/bare
exec 5<many/5 6>dir/six
read -r five <&5
echo "five $five" >&6
exec 5<&- 6>&-
cat dir/six
mv dir/six dir/seven && rm many/1 && rmdir gone 2>/dev/null || rm -r gone
ln text dir/hard && ln -s ../text dir/soft && cat dir/soft
mkdir -p made/of/many && cp -r dir made/of && find made -type f | sort
trap 'echo end' EXIT
ls many | wc -l
type tool | sed 's:.* ::'
kill -0 $$ && wait
