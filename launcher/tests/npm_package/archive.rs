//! Tar archives as a test wants them, right or wrong, and their integrity.

use std::io::Write;

use rift_launcher::plan::npm::package::integrity::base64_encode;
use sha2::{Digest, Sha512};

/// An archive that grows block by block.
#[derive(Clone, Default)]
pub(crate) struct Archive(pub(crate) Vec<u8>);

/// A header's fields that tests bend.
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) typeflag: u8,
    pub(crate) mode: &'a [u8],
    pub(crate) link: &'a [u8],
    /// The size field, when it is not the body's length in octal.
    pub(crate) size: Option<[u8; 12]>,
    pub(crate) body: &'a [u8],
}

impl Default for Entry<'_> {
    fn default() -> Self {
        Self { name: b"", typeflag: b'0', mode: b"000644 ", link: b"", size: None, body: b"" }
    }
}

impl Archive {
    pub(crate) fn entry(mut self, entry: &Entry<'_>) -> Self {
        let mut block = [0_u8; 512];
        let name = &entry.name[..entry.name.len().min(100)];
        block[..name.len()].copy_from_slice(name);
        block[100..100 + entry.mode.len()].copy_from_slice(entry.mode);
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        let size = format!("{:011o}\0", entry.body.len());
        block[124..136].copy_from_slice(&entry.size.unwrap_or(size.as_bytes().try_into().unwrap()));
        block[136..148].copy_from_slice(b"00000000000\0");
        block[156] = entry.typeflag;
        block[157..157 + entry.link.len()].copy_from_slice(entry.link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        self.0.extend_from_slice(&Self::sealed(block));
        self.body(entry.body)
    }

    /// Returns a block with its checksum.
    pub(crate) fn sealed(mut block: [u8; 512]) -> [u8; 512] {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    /// Seals the last header again after `change`, for an entry without a body.
    pub(crate) fn change(mut self, change: impl FnOnce(&mut [u8; 512])) -> Self {
        let at = self.0.len() - 512;
        let mut block: [u8; 512] = self.0[at..].try_into().unwrap();
        change(&mut block);
        self.0[at..].copy_from_slice(&Self::sealed(block));
        self
    }

    pub(crate) fn body(mut self, body: &[u8]) -> Self {
        self.0.extend_from_slice(body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, body: &[u8]) -> Self {
        self.entry(&Entry { name: name.as_bytes(), body, ..Entry::default() })
    }

    pub(crate) fn typed(self, typeflag: u8, name: &str, body: &[u8]) -> Self {
        self.entry(&Entry { name: name.as_bytes(), typeflag, body, ..Entry::default() })
    }

    pub(crate) fn pax(self, typeflag: u8, records: &[(&str, &str)]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = format!(" {key}={value}\n");
            let mut length = rest.len() + 1;
            while length != rest.len() + length.to_string().len() {
                length += 1;
            }
            write!(body, "{length}{rest}").unwrap();
        }
        self.typed(typeflag, "PaxHeader/x", &body)
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    gzip_with(bytes, flate2::Compression::fast())
}

pub(crate) fn gzip_best(bytes: &[u8]) -> Vec<u8> {
    gzip_with(bytes, flate2::Compression::best())
}

fn gzip_with(bytes: &[u8], compression: flate2::Compression) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), compression);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn sri(bytes: &[u8]) -> String {
    format!("sha512-{}", base64_encode(&Sha512::digest(bytes)))
}
