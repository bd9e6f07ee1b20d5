//! The code of a shell's hook.
//!
//! ```text
//! npm ARGS ──► function npm ──► __rift_exec npm ARGS ──► rift exec --hooked -- npm ARGS      or the tool itself
//! ```
//! Invariants: a function or alias of the user's stays as it is, so a function of that name is defined only where there
//! is none but ours, and no alias is expanded in what is defined; nothing but these functions and one exported
//! variable is left in the shell; a tool that is not on PATH is reported by the shell. While the shell completes a
//! line (`COMP_LINE`) the tool itself answers.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::{Shell, TOOLS, fill, quoted};

/// What the code of one shell is made of; `@TOOL@` stands for a tool, `@RIFT@` for the quoted path of rift.
struct Template {
    /// Opens a block for shells that people type into.
    if_interactive: &'static str,
    /// Opens a block for every shell.
    always: &'static str,
    begin: &'static str,
    hook_tool: &'static str,
    end: &'static str,
    unhook_tool: &'static str,
    unhook_end: &'static str,
}

// `function NAME` expands no alias of that name, and neither does a quoted word in command position. `true` makes a list
// of the function: only in a list does a tool that dies of SIGINT end a loop around the function as well.
const BASH: Template = Template {
    if_interactive: "if [[ $- == *i* ]]; then\n",
    always: "if true; then\n",
    begin: r#"    function __rift_exec {
        \builtin true
        if [[ ( -z ${RIFT_DISABLE-} || ${RIFT_DISABLE-} == 0 ) && -z ${COMP_LINE-} && -x @RIFT@ ]] &&
            \builtin type -P "$1" >/dev/null; then
            @RIFT@ exec --hooked -- "$@"
        else
            \builtin command "$@"
        fi
    }
"#,
    hook_tool: r#"    if ! \builtin declare -F @TOOL@ >/dev/null || [[ $(\builtin declare -f @TOOL@) == *__rift_exec* ]]; then
        function @TOOL@ { __rift_exec @TOOL@ "$@"; }
    fi
"#,
    end: r#"    \builtin export RIFT_HOOK="bash:$$"
fi
"#,
    unhook_tool: r#"if \builtin declare -F @TOOL@ >/dev/null && [[ $(\builtin declare -f @TOOL@) == *__rift_exec* ]]; then
    \builtin unset -f @TOOL@
fi
"#,
    unhook_end: r"\builtin unset -f __rift_exec
\builtin unset -v RIFT_HOOK
",
};

// Quotes keep global aliases out as well.
const ZSH: Template = Template {
    if_interactive: "if [[ -o interactive ]]; then\n",
    always: "if true; then\n",
    begin: r#"    function '__rift_exec' {
        if [[ ( -z ${RIFT_DISABLE-} || ${RIFT_DISABLE-} == 0 ) && -z ${COMP_LINE-} && -x @RIFT@ ]] &&
            \builtin whence -p "$1" >/dev/null; then
            @RIFT@ 'exec' '--hooked' -- "$@"
        else
            \command "$@"
        fi
    }
"#,
    hook_tool: r#"    if [[ -z ${functions[@TOOL@]-} || ${functions[@TOOL@]-} == *'__rift_exec'* ]]; then
        function '@TOOL@' { '__rift_exec' '@TOOL@' "$@"; }
    fi
"#,
    end: r#"    \builtin typeset -gx RIFT_HOOK="zsh:$$"
fi
"#,
    unhook_tool: r"if [[ ${functions[@TOOL@]-} == *'__rift_exec'* ]]; then
    \builtin unset -f '@TOOL@'
fi
",
    unhook_end: r"if [[ -n ${functions[__rift_exec]-} ]]; then
    \builtin unset -f '__rift_exec'
fi
\builtin unset RIFT_HOOK
",
};

const FISH: Template = Template {
    if_interactive: "if status is-interactive\n",
    always: "if true\n",
    begin: r#"    function __rift_exec --description 'Run a tool under rift exec'
        if begin
                test -z "$RIFT_DISABLE"; or test "$RIFT_DISABLE" = 0
            end; and test -z "$COMP_LINE"; and test -x @RIFT@; and command -q $argv[1]
            @RIFT@ exec --hooked -- $argv
        else
            command $argv
        end
    end
"#,
    hook_tool: r"    if not functions -q @TOOL@; or functions @TOOL@ | string match -q '*__rift_exec*'
        function @TOOL@ --description '@TOOL@ under rift exec'
            __rift_exec @TOOL@ $argv
        end
    end
",
    end: r"    set -gx RIFT_HOOK fish:$fish_pid
end
",
    unhook_tool: r"if functions -q @TOOL@; and functions @TOOL@ | string match -q '*__rift_exec*'
    functions -e @TOOL@
end
",
    unhook_end: r"if functions -q __rift_exec
    functions -e __rift_exec
end
set -e RIFT_HOOK
",
};

fn template(shell: Shell) -> &'static Template {
    match shell {
        Shell::Bash => &BASH,
        Shell::Zsh => &ZSH,
        Shell::Fish => &FISH,
    }
}

/// Returns the code that turns the hook on; a no-op in shells that nobody types into, unless `is_always`.
pub(super) fn hook(shell: Shell, rift: &OsStr, is_always: bool) -> Vec<u8> {
    let template = template(shell);
    let rift = match shell {
        Shell::Bash | Shell::Zsh => quoted(rift),
        Shell::Fish => quoted_for_fish(rift),
    };
    let opening = if is_always { template.always } else { template.if_interactive };
    let mut text = opening.as_bytes().to_vec();
    text.extend(fill(template.begin, &[("@RIFT@", &rift)]));
    for (tool, _) in TOOLS {
        text.extend(fill(template.hook_tool, &[("@TOOL@", OsStr::new(tool))]));
    }
    text.extend_from_slice(template.end.as_bytes());
    text
}

/// Returns the code that turns the hook off, and does nothing where it is off.
pub(super) fn unhook(shell: Shell) -> Vec<u8> {
    let template = template(shell);
    let mut text = Vec::new();
    for (tool, _) in TOOLS {
        text.extend(fill(template.unhook_tool, &[("@TOOL@", OsStr::new(tool))]));
    }
    text.extend_from_slice(template.unhook_end.as_bytes());
    text
}

/// Returns a word that fish reads as `word`.
fn quoted_for_fish(word: &OsStr) -> OsString {
    let mut text = vec![b'\''];
    for &byte in word.as_bytes() {
        if matches!(byte, b'\'' | b'\\') {
            text.push(b'\\');
        }
        text.push(byte);
    }
    text.push(b'\'');
    OsString::from_vec(text)
}
