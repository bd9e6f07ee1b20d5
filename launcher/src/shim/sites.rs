//! Finds the system calls of a library that a jump may replace.
//!
//! A jump takes five bytes and `syscall` has two, so instructions beside it have to move along: those before it that no
//! jump leads behind, or those after it. What moves may neither branch nor mean anything relative to its own place.

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, OpKind, Register};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind};
use rift_tree::run::{SITE_MAX, Site};

/// What a jump takes, in bytes.
const JUMP_BYTES: usize = 5;
/// How far before a system call its number may be set, in instructions.
const LOOK_BACK: usize = 8;

/// A library, as far as patching goes.
#[derive(Debug)]
pub(super) struct Library {
    pub(super) build_id: Vec<u8>,
    pub(super) sites: Vec<Site>,
}

/// Looks a library through.
///
/// # Errors
/// When the bytes are no library with a build-id.
pub(super) fn find(bytes: &[u8]) -> Result<Library> {
    let file = object::File::parse(bytes).context("it is no object file")?;
    let build_id = file.build_id().context("its notes can't be read")?;
    let build_id = build_id.context("it has no build-id")?.to_vec();
    let mut sites = Vec::new();
    for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
        let code = section.data().context("its code can't be read")?;
        let mut decoder = Decoder::with_ip(64, code, section.address(), DecoderOptions::NONE);
        let instructions: Vec<Instruction> = decoder.iter().collect();
        let mut targets: HashSet<u64> = instructions.iter().filter_map(target).collect();
        targets.extend(file.dynamic_symbols().map(|symbol| symbol.address()));
        for (at, _) in
            instructions.iter().enumerate().filter(|(_, one)| one.code() == Code::Syscall)
        {
            let number = number(&instructions[..at], &targets, instructions[at].ip());
            // Where nothing beside it may move it stays as it is.
            if let Some((first, last)) = window(&instructions, at, &targets) {
                let start = instructions[first].ip();
                let end = instructions[last].next_ip();
                let from = (start - section.address()) as usize;
                let length = (end - start) as usize;
                let mut taken = [0; SITE_MAX];
                taken[..length].copy_from_slice(&code[from..from + length]);
                let before = (instructions[at].ip() - start) as u8;
                let after = (end - instructions[at].next_ip()) as u8;
                let address = u32::try_from(start).context("it is too large")?;
                sites.push(Site { address, before, after, number, bytes: taken });
            }
        }
    }
    Ok(Library { build_id, sites })
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
    targets: &HashSet<u64>,
) -> Option<(usize, usize)> {
    let bytes = |first: usize, last: usize| -> usize {
        instructions[first..=last].iter().map(Instruction::len).sum()
    };
    let (mut first, mut last) = (at, at);
    // What comes before is as good as what comes after, but the number is mostly set just before.
    while bytes(first, last) < JUMP_BYTES && first > 0 {
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
