#!/bin/sh
# A shim of Velo Rift: runs the next @TOOL@ on PATH under `rift exec`, or alone where that can't be.
__rift_rest=${PATH-}:
__rift_path=
__rift_next=
__rift_is_astray=
# Elsewhere than in its folder a shim can't be told from the tool by name: rift would start it again.
[ -e "${0%/*}/@MARK@" ] || __rift_is_astray=1
while [ -n "$__rift_rest" ]; do
    __rift_folder=${__rift_rest%%:*}
    __rift_rest=${__rift_rest#*:}
    [ ! -e "${__rift_folder:-.}/@MARK@" ] || continue
    __rift_path=$__rift_path:$__rift_folder
    __rift_file=${__rift_folder:-.}/@TOOL@
    if [ -z "$__rift_next" ] && [ -f "$__rift_file" ] && [ -x "$__rift_file" ]; then
        __rift_line=
        { read -r __rift_line && read -r __rift_line; } 2>/dev/null <"$__rift_file"
        case $__rift_line in
        '# A shim of Velo Rift:'*) __rift_is_astray=1 ;;
        *) __rift_next=$__rift_file ;;
        esac
    fi
done
if [ -z "$__rift_next" ]; then
    echo "@TOOL@: not found on PATH beside rift's shims" >&2
    exit 127
fi
case ${RIFT_DISABLE:-0} in
0) ;;
*) exec "$__rift_next" "$@" ;;
esac
if [ -n "$__rift_is_astray" ] || [ ! -x @RIFT@ ]; then
    exec "$__rift_next" "$@"
fi
PATH=${__rift_path#:}
exec @RIFT@ exec --hooked -- @TOOL@ "$@"
