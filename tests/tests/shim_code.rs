//! The code of the preload library, as it was built: what it may touch before it has saved what programs have there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rift_tests::mounts::{rift, take_files_in};
use rift_tests::need::{Need, have};
use rift_tests::sandbox::Sandbox;

/// An instruction, as objdump(1) prints it.
#[derive(Debug)]
struct Instruction {
    address: u64,
    text: String,
}

impl Instruction {
    /// The address that a jump or a call leads to, if it says so.
    fn target(&self) -> Option<u64> {
        let mut words = self.text.split_whitespace();
        let is_branch = words.next()?.starts_with(['j', 'c']);
        let target = words.next().filter(|_| is_branch)?;
        u64::from_str_radix(target.strip_prefix("0x")?, 16).ok()
    }

    fn is(&self, name: &str) -> bool {
        self.text.split_whitespace().next() == Some(name)
    }

    /// Tells whether it has to do with a register that system calls keep and code mostly does not.
    fn touches_vectors(&self) -> bool {
        ["xmm", "ymm", "zmm", "mm0", "mm1", "st("].iter().any(|name| self.text.contains(name))
    }
}

/// Returns the library that a run is given, in a sandbox that lives as long.
fn library() -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::new("code").unwrap();
    take_files_in(&sandbox, [("a".to_owned(), "a".to_owned())].into_iter());
    rift(
        &sandbox,
        &sandbox.home(),
        &["exec", "--as", "virtual", "--tree", "tree=view", "--", "true"],
    );
    let tools = fs::read_dir(sandbox.store().join("tools")).unwrap();
    let mut paths = tools.map(|tool| tool.unwrap().path());
    let library = paths.find(|path| path.to_string_lossy().ends_with("-librift.so")).unwrap();
    (sandbox, library)
}

/// What objdump(1) says of a program.
fn objdump(path: &std::path::Path, words: &[&str]) -> String {
    let output = Command::new("objdump").args(words).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Where words of the library lead to that the loader fills in.
fn relocated(path: &std::path::Path) -> BTreeMap<u64, u64> {
    let line = |line: &str| {
        let (place, value) = line.split_once(" R_X86_64_RELATIVE")?;
        let value = value.trim().strip_prefix("*ABS*+0x")?;
        Some((u64::from_str_radix(place.trim(), 16).ok()?, u64::from_str_radix(value, 16).ok()?))
    };
    objdump(path, &["-R"]).lines().filter_map(line).collect()
}

/// Disassembles a program.
fn disassemble(path: &std::path::Path) -> Vec<Instruction> {
    let text = objdump(path, &["-d", "--no-show-raw-insn", "-M", "intel"]);
    let line = |line: &str| {
        let (address, text) = line.split_once(":\t")?;
        let address = u64::from_str_radix(address.trim(), 16).ok()?;
        Some(Instruction { address, text: text.trim().to_owned() })
    };
    text.lines().filter_map(line).collect()
}

/// Everything that a system call runs through before the vector registers are saved, and where it looks whether they have
/// to be, uses none of them.
///
/// The entry is known by what it does: it is the code that pushes all arguments. It makes calls to look at a call
/// before it, after it, and after it found nothing, to take a stack and to give it back, and two to serve it, for which all is
/// saved.
#[test]
fn no_vector_register_is_touched_before_all_are_saved() {
    let name = "no_vector_register_is_touched_before_all_are_saved";
    if !have(name, &[Need::Tool("objdump")]) {
        return;
    }
    let (_sandbox, library) = library();
    let (mut code, words) = (disassemble(&library), relocated(&library));
    // What is called through a word that the loader fills in is called directly.
    for one in &mut code {
        if let Some((place, word)) =
            one.text.split_once(" QWORD PTR [rip").zip(one.text.rsplit_once("# 0x"))
        {
            let word = u64::from_str_radix(word.1, 16).ok();
            if let Some(target) = word.and_then(|word| words.get(&word)) {
                one.text = format!("{} 0x{target:x}", place.0.trim());
            }
        }
    }
    let at: BTreeMap<u64, usize> =
        code.iter().enumerate().map(|(index, one)| (one.address, index)).collect();
    let pushes = ["r9", "r8", "r10", "rdx", "rsi", "rdi", "rax", "rbp"];
    let is_entry = |window: &[Instruction]| {
        window
            .iter()
            .zip(pushes)
            .all(|(one, register)| one.text.split_whitespace().eq(["push", register]))
    };
    let entries: Vec<usize> = code
        .windows(pushes.len())
        .enumerate()
        .filter(|(_, window)| is_entry(window))
        .map(|(index, _)| index)
        .collect();
    assert_eq!(entries.len(), 1, "the entry is found once");
    let entry = entries[0];
    let saved = (entry..).find(|index| code[*index].text.starts_with("movups")).unwrap();
    let restored = (saved..)
        .take_while(|index| !code[*index].is("push"))
        .filter(|index| code[*index].text.starts_with("movups xmm"));
    let restored = restored.last().unwrap();
    // What is called before the first is saved, and between: only that which is called while they hold the program's own.
    let called = |range: std::ops::Range<usize>| {
        code[range].iter().filter(|one| one.is("call")).filter_map(Instruction::target)
    };
    let before: Vec<u64> = called(entry..saved).collect();
    assert_eq!(before.len(), 3, "before a call, and twice after one");
    assert_eq!(
        called(saved..restored).count(),
        4,
        "a stack taken and given back, and a call served on either"
    );
    let (mut to_do, mut seen) = (before, BTreeSet::new());
    let mut from: BTreeMap<u64, u64> = BTreeMap::new();
    while let Some(address) = to_do.pop() {
        if !seen.insert(address) {
            continue;
        }
        // To the end of what can be reached without a call or a jump: the next return or jump that nothing leads behind.
        let mut index = *at.get(&address).unwrap_or_else(|| panic!("no code at {address:x}"));
        loop {
            let one = &code[index];
            let way = || {
                let way =
                    std::iter::successors(Some(address), |address| from.get(address).copied());
                way.map(|address| format!("{address:x}")).collect::<Vec<_>>().join(" from ")
            };
            assert!(!one.touches_vectors(), "{:x}: {} is in {}", one.address, one.text, way());
            let is_indirect = (one.is("call") || one.is("jmp")) && one.target().is_none();
            assert!(!is_indirect || is_jump_table(&code, index), "{:x}: {}", one.address, one.text);
            // What does not come back ends the process.
            let is_last = one.is("call")
                && code.get(index + 1).is_none_or(|next| next.is("int3") || next.is("ud2"));
            if is_last {
                break;
            }
            if let Some(target) = one.target() {
                from.entry(target).or_insert(address);
                to_do.push(target);
            }
            if one.is("jmp") && is_indirect {
                to_do.extend(jump_targets(&code, &at, index));
            }
            if one.is("ret") || one.is("jmp") || one.is("ud2") {
                break;
            }
            index += 1;
        }
    }
    assert!(seen.len() > 20, "only {} parts were looked at", seen.len());
}

/// Tells whether an indirect jump goes by a table beside the code: it adds an offset to a base just before.
fn is_jump_table(code: &[Instruction], jump: usize) -> bool {
    code[jump.saturating_sub(4)..jump].iter().any(|one| one.is("add") || one.is("movsxd"))
}

/// Everything that may follow an indirect jump: all of the function up to the next one's start is looked at, which begins
/// behind padding.
fn jump_targets(code: &[Instruction], at: &BTreeMap<u64, usize>, jump: usize) -> Vec<u64> {
    let is_padding = |one: &Instruction| one.is("int3") || one.is("nop") || one.is("cs");
    let rest = code[jump + 1..].iter().take_while(|one| !is_padding(one));
    rest.map(|one| one.address).filter(|address| at.contains_key(address)).collect()
}
