//! Tar headers, read as npm's tar reads them: ustar, pax records, GNU long names, base-256 numbers.
//!
//! ```text
//! block: | name 100 | mode 8 | uid 8 | gid 8 | size 12 | mtime 12 | checksum 8 | type 1 | link 100 |
//!        | "ustar\0" "00" | user 32 | group 32 | major 8 | minor 8 | prefix 155 (or 130, times 24) | 12 |
//! ```
//!
//! Only what decides which files come out is kept. Names become text and back, so bytes that are not
//! UTF-8 turn into U+FFFD as they do in npm. Pure functions; the stream is `tarball`'s.

/// The length of a header, and what bodies are padded to.
pub(super) const BLOCK: usize = 512;

/// What extension headers say about the next entry (`x`, `L`, `K`) or all of them (`g`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Extension {
    pub(super) path: Option<String>,
    pub(super) linkpath: Option<String>,
    size: Option<u64>,
    has_uid: bool,
    has_gid: bool,
    has_mtime: bool,
    has_atime: bool,
    has_ctime: bool,
}

/// What kind of entry a header begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An ordinary file.
    File,
    /// A file that replaces what it finds instead of overwriting it.
    ContiguousFile,
    /// Pax records for the next entry.
    Pax,
    /// Pax records for all later entries.
    GlobalPax,
    /// The body is the path of the next entry.
    LongPath,
    /// The body is the link target of the next entry.
    LongLink,
    /// Anything that npm leaves out: links, directories, devices, what nobody knows.
    LeftOut,
}

/// A header that npm would believe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) path: String,
    /// A target that extension headers gave to what is no link.
    pub(super) linkpath: Option<String>,
    /// Permission bits, as stored.
    pub(super) mode: u16,
    /// How many bytes of body follow.
    pub(super) body: u64,
    /// The size by which npm judges an extension header: that of a pending one, if it has any.
    pub(super) judged_size: u64,
}

/// What a block is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Block {
    /// All zero: two of them end an archive.
    Null,
    /// No header. npm warns and looks at the next block.
    Invalid,
    /// As `Invalid`, but npm's tar stops reading it so early that a null block before it still counts.
    Unreadable,
    /// A header.
    Header(Header),
}

/// Returns a field as text: up to the first NUL, as `/\0.*/` cuts it, which stops at line ends.
fn text(field: &[u8]) -> String {
    let text = String::from_utf8_lossy(field);
    cut_at_nul(&text).into_owned()
}

pub(super) fn cut_at_nul(text: &str) -> std::borrow::Cow<'_, str> {
    let Some((before, after)) = text.split_once('\0') else {
        return text.into();
    };
    match after.find(['\n', '\r', '\u{2028}', '\u{2029}']) {
        None => before.into(),
        Some(end) => format!("{before}{}", &after[end..]).into(),
    }
}

/// A number that npm's tar throws on.
struct Unreadable;

/// Reads an octal or base-256 number; `None` when there is none.
fn number(field: &[u8]) -> Result<Option<i64>, Unreadable> {
    match field.first() {
        Some(0x80) => base256(&field[1..], false).map(Some),
        Some(0xff) => base256(field, true).map(Some),
        Some(first) if first & 0x80 != 0 => Err(Unreadable),
        _ => Ok(octal(field)),
    }
}

/// Reads big-endian bytes, as two's complement when `is_negative`.
fn base256(field: &[u8], is_negative: bool) -> Result<i64, Unreadable> {
    const SAFE_MAX: i128 = (1 << 53) - 1;
    // At most 12 bytes, so it fits.
    let mut value = field.iter().fold(0_i128, |value, byte| value << 8 | i128::from(*byte));
    if is_negative {
        value -= 1 << (8 * field.len());
    }
    match i64::try_from(value) {
        Ok(fits) if value.abs() <= SAFE_MAX => Ok(fits),
        _ => Err(Unreadable),
    }
}

/// Reads leading octal digits as `parseInt(text, 8)` does.
fn octal(field: &[u8]) -> Option<i64> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let text = field[..end].trim_ascii_start();
    let (is_negative, digits) = match text.first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let count = digits.iter().take_while(|byte| (b'0'..=b'7').contains(byte)).count();
    // At most 12 digits of 3 bits.
    let value =
        digits[..count].iter().fold(0_i64, |value, byte| value << 3 | i64::from(byte - b'0'));
    (count > 0).then_some(if is_negative { -value } else { value })
}

/// Reads a block.
pub(super) fn read(
    block: &[u8; BLOCK],
    pending: Option<&Extension>,
    global: Option<&Extension>,
) -> Block {
    match read_fields(block, pending, global) {
        Ok(block) => block,
        Err(Unreadable) => Block::Unreadable,
    }
}

fn read_fields(
    block: &[u8; BLOCK],
    pending: Option<&Extension>,
    global: Option<&Extension>,
) -> Result<Block, Unreadable> {
    let typeflag = block[156];
    // Extension headers describe the next entry, not the extension headers in between.
    let is_normal = matches!(typeflag, 0 | b'0'..=b'7' | b'D');
    let (own, all) = if is_normal { (pending, global) } else { (None, None) };
    let has = |field: fn(&Extension) -> bool| own.is_some_and(field) || all.is_some_and(field);
    // Numbers that nobody needs are read all the same: a bad one makes npm drop the header.
    let check = |is_given: bool, at: usize, bytes: usize| match is_given {
        true => Ok(()),
        false => number(&block[at..at + bytes]).map(drop),
    };
    let mut path = own.and_then(|own| own.path.clone()).unwrap_or_else(|| text(&block[..100]));
    let mode = number(&block[100..108])?.unwrap_or(0);
    check(has(|extension| extension.has_uid), 108, 8)?;
    check(has(|extension| extension.has_gid), 116, 8)?;
    let given = own.and_then(|own| own.size).or_else(|| all.and_then(|all| all.size));
    let mut size = match given {
        Some(size) => size,
        None => number(&block[124..136])?.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
    };
    check(has(|extension| extension.has_mtime), 136, 12)?;
    let checksum = number(&block[148..160])?;
    // Old archives marked directories by a trailing slash only.
    let is_directory = typeflag == b'5' || matches!(typeflag, 0 | b'0') && path.ends_with('/');
    if is_directory {
        size = 0;
    }
    let link = text(&block[157..257]);
    if &block[257..265] == b"ustar\x0000" {
        check(false, 329, 8)?;
        check(false, 337, 8)?;
        if block[475] != 0 {
            path = format!("{}/{path}", text(&block[345..500]));
        } else {
            let prefix = text(&block[345..475]);
            if !prefix.is_empty() {
                path = format!("{prefix}/{path}");
            }
            let either = |field: fn(&Extension) -> bool| {
                pending.is_some_and(field) || global.is_some_and(field)
            };
            check(either(|extension| extension.has_atime), 476, 12)?;
            check(either(|extension| extension.has_ctime), 488, 12)?;
        }
    }
    let sum: i64 = block.iter().map(|byte| i64::from(*byte)).sum();
    let field: i64 = block[148..156].iter().map(|byte| i64::from(*byte)).sum();
    let sum = sum - field + 8 * 0x20;
    if checksum.is_none() && sum == 8 * 0x20 {
        return Ok(Block::Null);
    }
    let is_link = matches!(typeflag, b'1' | b'2');
    let may_have_link = is_link || matches!(typeflag, b'x' | b'g');
    if checksum != Some(sum)
        || path.is_empty()
        || is_link && link.is_empty()
        || !may_have_link && !link.is_empty()
    {
        return Ok(Block::Invalid);
    }
    let kind = match typeflag {
        0 | b'0' if !is_directory => Kind::File,
        b'7' => Kind::ContiguousFile,
        b'x' | b'X' => Kind::Pax,
        b'g' => Kind::GlobalPax,
        b'L' | b'N' => Kind::LongPath,
        b'K' => Kind::LongLink,
        _ => Kind::LeftOut,
    };
    let pending_size = pending.and_then(|pending| pending.size);
    let global_size = global.and_then(|global| global.size);
    let pending_path = pending.and_then(|pending| pending.path.clone());
    let linkpath = global
        .and_then(|global| global.linkpath.clone())
        .or_else(|| pending.and_then(|pending| pending.linkpath.clone()));
    Ok(Block::Header(Header {
        kind,
        path: pending_path.unwrap_or(path),
        linkpath,
        // Permission and set-id bits only.
        mode: (mode & 0o7777) as u16,
        body: size,
        judged_size: global_size.or(pending_size).unwrap_or(size),
    }))
}

impl Extension {
    /// Takes in pax records, which override what was said before.
    pub(super) fn add_records(&mut self, body: &[u8]) {
        let body = String::from_utf8_lossy(body);
        let body = body.strip_suffix('\n').unwrap_or(&body);
        for line in body.split('\n') {
            self.add_record(line);
        }
    }

    /// Takes in one record `LENGTH KEY=VALUE`; one with a wrong length is passed over, as by npm.
    fn add_record(&mut self, line: &str) {
        let trimmed = line.trim_start();
        let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
        let Ok(length) = trimmed[..digits].parse::<usize>() else {
            return;
        };
        let skip = length.to_string().len() + 1;
        if length != line.len() + 1 || !line.is_char_boundary(skip) {
            return;
        }
        let Some((key, value)) = line[skip..].split_once('=') else {
            return;
        };
        let value = || cut_at_nul(value);
        match key {
            "path" => self.path = Some(value().into_owned()),
            "linkpath" => self.linkpath = Some(value().into_owned()),
            "size" => {
                if let Some(size) = javascript_number(&value()) {
                    self.size = Some(size);
                }
            }
            "uid" => self.has_uid = true,
            "gid" => self.has_gid = true,
            "mtime" => self.has_mtime = true,
            "atime" => self.has_atime = true,
            "ctime" => self.has_ctime = true,
            _ => {}
        }
    }
}

/// Reads what `Number(text)` gives, when that is not negative; fractions end at the next whole byte.
fn javascript_number(text: &str) -> Option<u64> {
    let text = text.trim();
    let with_radix = |prefix: [&str; 2], radix| {
        let digits = prefix.iter().find_map(|prefix| text.strip_prefix(prefix))?;
        Some(u64::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+')))
    };
    let special = with_radix(["0x", "0X"], 16)
        .or_else(|| with_radix(["0o", "0O"], 8))
        .or_else(|| with_radix(["0b", "0B"], 2));
    if text.is_empty() {
        return Some(0);
    }
    if let Some(value) = special {
        return value;
    }
    let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    let value: f64 = text.parse().ok().filter(|_| is_decimal)?;
    // Deliberate saturation: what is too large for u64 is refused by its size.
    (value >= 0.0).then_some(value.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_javascript_reads_them() {
        let ok = |field: &[u8]| number(field).ok().flatten();
        assert_eq!(ok(b"0000644\0"), Some(0o644));
        assert_eq!(ok(b"  644 \0\0"), Some(0o644));
        assert_eq!(ok(b"6449 \0\0\0"), Some(0o644));
        assert_eq!(ok(b"-1\0\0\0\0\0\0"), Some(-1));
        assert_eq!(ok(b"\0\0\0\0\0\0\0\0"), None);
        assert_eq!(ok(b"abcdefgh"), None);
        assert_eq!(ok(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(ok(&[0xff; 8]), Some(-1));
        assert!(number(&[0x81; 8]).is_err());
        assert!(number(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
        for (text, value) in [
            ("12", Some(12)),
            (" 12 ", Some(12)),
            ("1e3", Some(1000)),
            ("0x10", Some(16)),
            ("", Some(0)),
            ("1.5", Some(2)),
            ("-1", None),
            ("inf", None),
            ("nan", None),
            ("12a", None),
        ] {
            assert_eq!(javascript_number(text), value, "{text}");
        }
    }

    #[test]
    fn pax_records_with_wrong_lengths_are_passed_over() {
        let mut extension = Extension::default();
        extension.add_records(b"12 path=a/b\n99 path=evil\n8 size=7\n22 mtime=1234567890.5\n");
        assert_eq!(extension.path.as_deref(), Some("a/b"));
        assert_eq!(extension.size, None);
        extension.add_records("9 size=7\n17 path=\u{e9}\u{e9}\u{e9}/b\n".as_bytes());
        assert_eq!(extension.size, Some(7));
        assert_eq!(cut_at_nul("a\0b\nc"), "a\nc");
        assert_eq!(cut_at_nul("a\0b"), "a");
    }
}
