//! What `/proc/self/smaps` says of a mapping (proc_pid_smaps(5)).

/// One mapping of the process.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) start: usize,
    /// Bytes.
    pub(super) length: usize,
    /// Bytes of it that are mapped to memory.
    pub(super) resident: usize,
    /// Bytes of it that are no longer the file's.
    own: usize,
    permissions: String,
    is_file: bool,
}

impl Mapping {
    /// Whether every page of it equals the file's: private, not writable, and never copied.
    pub(super) fn is_unchanged_file(&self) -> bool {
        self.is_file && self.own == 0 && matches!(self.permissions.as_str(), "r-xp" | "r--p")
    }
}

/// The mappings, as far as they are understood.
pub(super) fn parse(smaps: &str) -> impl Iterator<Item = Mapping> {
    let mut lines = smaps.lines().peekable();
    std::iter::from_fn(move || {
        let mut mapping = loop {
            if let Some(mapping) = header(lines.next()?) {
                break mapping;
            }
        };
        // A mapping that does not say what it copied counts as changed.
        let mut own = None;
        while let Some(line) = lines.next_if(|line| header(line).is_none()) {
            match line.split_once(':') {
                Some(("Rss", size)) => mapping.resident = bytes(size).unwrap_or(0),
                Some(("Anonymous", size)) => own = bytes(size),
                _ => {}
            }
        }
        mapping.own = own.unwrap_or(mapping.length);
        Some(mapping)
    })
}

/// `start-end permissions offset device inode path`.
fn header(line: &str) -> Option<Mapping> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let length = usize::from_str_radix(end, 16).ok()?.checked_sub(start)?;
    let permissions = fields.next()?.to_owned();
    let is_file = fields.nth(2)? != "0";
    Some(Mapping { start, length, permissions, is_file, ..Mapping::default() })
}

/// ` 12 kB`.
fn bytes(size: &str) -> Option<usize> {
    size.trim().strip_suffix(" kB")?.parse::<usize>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0c0000000-55d0c0100000 r--p 00000000 fe:00 17   /usr/bin/headgate
Size:               1024 kB
Rss:                 512 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
55d0c0100000-55d0c0200000 r--p 00100000 fe:00 17   /usr/bin/headgate (relocated)
Rss:                  64 kB
Anonymous:             4 kB
55d0c0200000-55d0c0300000 rw-p 00200000 fe:00 17   /usr/bin/headgate
Rss:                  64 kB
Anonymous:             0 kB
7ffd0e5c8000-7ffd0e5ca000 r-xp 00000000 00:00 0    [vdso]
Rss:                   4 kB
Anonymous:             0 kB
7ffd0e5cb000-7ffd0e5cc000 r-xp 00000000 fe:00 18   /lib/cut.so
Rss:                   4 kB
";

    #[test]
    fn only_what_equals_its_file() {
        let all: Vec<Mapping> = parse(SMAPS).collect();
        assert_eq!(all.len(), 5);
        let unchanged: Vec<&Mapping> = all.iter().filter(|m| m.is_unchanged_file()).collect();
        assert_eq!(unchanged.len(), 1);
        let first = unchanged[0];
        assert_eq!((first.start, first.length), (0x55d0_c000_0000, 1024 * 1024));
        assert_eq!(first.resident, 512 * 1024);
    }

    #[test]
    fn nonsense_is_no_mapping() {
        assert_eq!(parse("").count(), 0);
        assert_eq!(parse("zz-10 r-xp\nRss: x kB\n20-10 r-xp 0 0:0 1 /a").count(), 0);
    }
}
