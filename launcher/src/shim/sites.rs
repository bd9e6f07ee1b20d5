//! Finds the system calls of a library that a jump may replace.
//!
//! A jump takes five bytes and `syscall` has two, so instructions beside it have to move along: those before it that no
//! jump leads behind, or those after it. What moves may neither branch nor mean anything relative to its own place. Where
//! nothing may move, a short jump takes the two bytes, to padding between functions that the longer one fits into.

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register,
};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind};
use rift_tree::run::{SITE_MAX, Site};
use rift_tree::stub::JUMP_BYTES;

/// How far before a system call its number may be set, in instructions.
const LOOK_BACK: usize = 8;
/// Functions begin at multiples of this, and may begin with what looks like padding.
const ALIGNMENT: u64 = 16;

/// A library, as far as patching goes.
#[derive(Debug)]
pub(super) struct Library {
    /// The system calls that are wanted, and can be replaced.
    pub(super) sites: Vec<Site>,
    /// Those that are wanted and can't: where they are, and their numbers.
    pub(super) left: Vec<(u64, i32)>,
    /// Those that are not wanted.
    pub(super) others: Vec<(u64, i32)>,
}

/// Looks a library through for the system calls whose numbers are wanted; -1 is a number that is not known.
///
/// # Errors
/// When the bytes are no library.
pub(super) fn find(bytes: &[u8], is_wanted: impl Fn(i32) -> bool) -> Result<Library> {
    let file = object::File::parse(bytes).context("it is no object file")?;
    let mut found = Library { sites: Vec::new(), left: Vec::new(), others: Vec::new() };
    let symbols: Vec<u64> = file.dynamic_symbols().map(|symbol| symbol.address()).collect();
    for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
        let code = section.data().context("its code can't be read")?;
        look(code, section.address(), &symbols, &is_wanted, &mut found)?;
    }
    Ok(found)
}

/// Looks one piece of code through.
fn look(
    code: &[u8],
    start: u64,
    symbols: &[u64],
    is_wanted: &impl Fn(i32) -> bool,
    found: &mut Library,
) -> Result<()> {
    let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
    let instructions: Vec<Instruction> = decoder.iter().collect();
    let mut targets: HashSet<u64> = instructions.iter().filter_map(target).collect();
    targets.extend(symbols);
    let bytes_at = |from: u64, to: u64| {
        let [from, to] = [from, to].map(|at| at.wrapping_sub(start) as usize);
        code.get(from..to).unwrap_or_default()
    };
    let mut rooms = paddings(&instructions, &targets);
    // What has moved for one is not there for the next.
    let mut moved = 0;
    for (at, call) in instructions.iter().enumerate().filter(|(_, one)| one.code() == Code::Syscall)
    {
        let number = number(&instructions[..at], &targets, call.ip());
        if !is_wanted(number) {
            found.others.push((call.ip(), number));
            continue;
        }
        let mut site =
            Site { number, address: 0, before: 0, after: 0, hop: 0, bytes: [0; SITE_MAX] };
        let mut taken = Vec::new();
        if let Some((first, last)) = window(&instructions, at, moved, &targets) {
            moved = last + 1;
            let (from, to) = (instructions[first].ip(), instructions[last].next_ip());
            site.address = u32::try_from(from).context("it is too large")?;
            site.before = (call.ip() - from) as u8;
            site.after = (to - call.next_ip()) as u8;
            taken.extend_from_slice(bytes_at(from, to));
        } else if let Some(room) = hop(&mut rooms, call.ip()) {
            moved = at + 1;
            site.address = u32::try_from(call.ip()).context("it is too large")?;
            site.hop = room.wrapping_sub(call.ip()) as i32;
            taken.extend_from_slice(bytes_at(call.ip(), call.next_ip()));
            taken.extend_from_slice(bytes_at(room, room + JUMP_BYTES as u64));
        } else {
            found.left.push((call.ip(), number));
            continue;
        }
        site.bytes.get_mut(..taken.len()).context("a site is too long")?.copy_from_slice(&taken);
        found.sites.push(site);
    }
    Ok(())
}

/// Returns where between functions there is room for a jump.
fn paddings(instructions: &[Instruction], targets: &HashSet<u64>) -> Vec<u64> {
    let is_padding = |one: &Instruction| matches!(one.mnemonic(), Mnemonic::Nop | Mnemonic::Int3);
    let mut found = Vec::new();
    for pair in instructions.windows(2) {
        let (before, start) = (&pair[0], pair[1].ip());
        let ends = matches!(
            before.flow_control(),
            FlowControl::Return | FlowControl::UnconditionalBranch | FlowControl::IndirectBranch
        );
        if !ends || is_padding(before) || !is_padding(&pair[1]) {
            continue;
        }
        let end = start + JUMP_BYTES as u64;
        let at = instructions.partition_point(|one| one.ip() < start);
        let run = instructions[at..].iter().take_while(|one| is_padding(one));
        let is_long = run.last().is_some_and(|last| last.next_ip() >= end);
        let is_reached =
            (start..end).any(|at| targets.contains(&at) || at.is_multiple_of(ALIGNMENT));
        if is_long && !is_reached {
            found.push(start);
        }
    }
    found
}

/// Takes the room that a short jump at `from` reaches.
fn hop(rooms: &mut Vec<u64>, from: u64) -> Option<u64> {
    let reached = |room: &u64| {
        let distance = room.wrapping_sub(from + 2).cast_signed();
        i8::try_from(distance).is_ok()
    };
    let at = rooms.iter().position(reached)?;
    Some(rooms.remove(at))
}

/// Where an instruction leads to, if that is known.
fn target(instruction: &Instruction) -> Option<u64> {
    let leads = !matches!(instruction.flow_control(), FlowControl::Next);
    let is_near = matches!(instruction.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32);
    (leads && is_near).then(|| instruction.near_branch_target())
}

/// Finds the number that is in eax at a system call, if all ways to it set the same one.
fn number(before: &[Instruction], targets: &HashSet<u64>, at: u64) -> i32 {
    if targets.contains(&at) {
        return -1;
    }
    for instruction in before.iter().rev().take(LOOK_BACK) {
        if matches!(instruction.code(), Code::Mov_r32_imm32 | Code::Mov_rm64_imm32)
            && instruction.op0_register().full_register() == Register::RAX
        {
            return instruction.immediate32().cast_signed();
        }
        // As read(2) has it.
        let is_cleared = instruction.code() == Code::Xor_rm32_r32
            && instruction.op0_register() == Register::EAX
            && instruction.op1_register() == Register::EAX;
        if is_cleared {
            return 0;
        }
        let sets_it = instruction.op_count() > 0
            && instruction.op0_kind() == OpKind::Register
            && instruction.op0_register().full_register() == Register::RAX;
        if sets_it
            || instruction.flow_control() != FlowControl::Next
            || targets.contains(&instruction.ip())
        {
            return -1;
        }
    }
    -1
}

/// Tells whether an instruction does the same in another place.
fn may_move(instruction: &Instruction) -> bool {
    instruction.flow_control() == FlowControl::Next
        && !instruction.is_ip_rel_memory_operand()
        && !instruction.is_invalid()
        && instruction.code() != Code::Syscall
}

/// Returns the first and the last instruction to replace.
fn window(
    instructions: &[Instruction],
    at: usize,
    floor: usize,
    targets: &HashSet<u64>,
) -> Option<(usize, usize)> {
    let bytes = |first: usize, last: usize| -> usize {
        instructions[first..=last].iter().map(Instruction::len).sum()
    };
    let (mut first, mut last) = (at, at);
    // What comes before is as good as what comes after, but the number is mostly set just before.
    while bytes(first, last) < JUMP_BYTES && first > floor {
        let before = &instructions[first - 1];
        let joins = before.next_ip() == instructions[first].ip();
        if !joins || targets.contains(&instructions[first].ip()) || !may_move(before) {
            break;
        }
        first -= 1;
    }
    while bytes(first, last) < JUMP_BYTES {
        let after = instructions.get(last + 1)?;
        if targets.contains(&after.ip()) || !may_move(after) {
            return None;
        }
        last += 1;
    }
    (bytes(first, last) <= SITE_MAX).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked(code: &[u8]) -> Library {
        let mut found = Library { sites: Vec::new(), left: Vec::new(), others: Vec::new() };
        look(code, 0x1000, &[], &|number| number != 0, &mut found).unwrap();
        found
    }

    /// `jmp 0x1005`, which leads to a system call, so that nothing may move that is before it.
    const REACHED: [u8; 2] = [0xeb, 0xf3];

    /// Where nothing may move, what is between functions is used, else the call is said to be left.
    #[test]
    fn a_call_that_stands_alone_jumps_twice() {
        // mov eax, 2; syscall; ret
        let alone = [0xb8, 2, 0, 0, 0, 0x0f, 0x05, 0xc3];
        let found = looked(&alone);
        let site = found.sites[0];
        assert_eq!((site.address, site.before, site.after, site.number), (0x1000, 5, 0, 2));
        // nop dword ptr [rax]; nop
        let padding = [0x0f, 0x1f, 0x80, 0, 0, 0, 0, 0x90];
        let found = looked(&[&alone[..], &padding, &REACHED].concat());
        assert!(found.left.is_empty() && found.sites.len() == 1, "{found:?}");
        let site = found.sites[0];
        assert_eq!((site.address, site.len(), site.number, site.hop), (0x1005, 2, -1, 3));
        assert_eq!(site.bytes[..7], [0x0f, 0x05, 0x0f, 0x1f, 0x80, 0, 0]);
        // jmp short to the padding, and from there to the stub, behind what leads to calls of the kernel.
        let jump = rift_tree::stub::jump(&site, 0x2000);
        let end = 0x1008 + 5;
        let distance = (0x2000 + rift_tree::stub::entrance(&site) - end) as u32;
        assert_eq!(jump[..3], [0xeb, 1, 0xe9]);
        assert_eq!(jump[3..7], distance.to_le_bytes());
        // xor ecx, ecx eight times, no padding; then padding that a function may begin with.
        let busy = [0x31, 0xc9].repeat(4);
        let found = looked(&[&alone[..], &busy, &REACHED].concat());
        assert_eq!((found.sites.len(), &found.left[..]), (0, &[(0x1005, -1)][..]));
        let found = looked(&[&alone[..], &busy, &REACHED, &[0x90; 14], &[0x90; 8]].concat());
        assert_eq!(found.sites[0].hop, 0x1012 - 0x1005);
        let found =
            looked(&[&alone[..], &busy, &REACHED, &[0xc9; 10], &[0xc3], &[0x90; 8]].concat());
        assert_eq!(found.left.len(), 1, "{found:?}");
        // What nobody wants may stay.
        let found = looked(&[0x31, 0xc0, 0xb8, 0, 0, 0, 0, 0x0f, 0x05, 0xc3]);
        assert_eq!((found.sites.len(), &found.others[..]), (0, &[(0x1007, 0)][..]));
    }

    /// What one jump has replaced, no other one does.
    #[test]
    fn neighbors_share_nothing() {
        // mov eax, edi; syscall; mov eax, edi; syscall; mov eax, edi; mov eax, edi
        let (number, call) = ([0x89, 0xf8], [0x0f, 0x05]);
        let found = looked(&[number, call, number, call, number, number].concat());
        let ranges: Vec<_> = found
            .sites
            .iter()
            .map(|site| (site.address, site.address + site.len() as u32))
            .collect();
        assert_eq!(ranges, [(0x1000, 0x1006), (0x1006, 0x100c)]);
    }

    /// read(2) has the number 0, which libraries mostly clear a register for.
    #[test]
    fn a_cleared_register_is_a_number() {
        // xor eax, eax; syscall; nop; nop; nop
        let found = looked(&[0x31, 0xc0, 0x0f, 0x05, 0x90, 0x90, 0x90]);
        assert_eq!(found.others, [(0x1002, 0)]);
        assert!(found.sites.is_empty() && found.left.is_empty());
    }
}
