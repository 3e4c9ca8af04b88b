//! System call filters as BPF programs: deny lists that answer with an error, for every way to enter the kernel.

use libc::sock_filter;

/// Which filter a program runs under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    /// Outputs with NAR semantics: no setuid bits, no extended attributes.
    Nix,
    /// Root filesystems: both are wanted; what forces data to the disk does nothing.
    Step,
}

/// What the filter does with one system call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Always answer with this errno (0: pretend success).
    Errno(i32),
    /// Answer EPERM when the mode argument of this number has a setuid or setgid bit.
    NoSetId(u8),
    /// The same for a call that opens a file, which has its flags in the argument of this number and the mode in the next one: where
    /// the flags make no file, the mode is whatever the register held.
    NoSetIdFile(u8),
    /// Show it to whoever watches.
    Show,
    /// Answer EAFNOSUPPORT when the first argument is a family of sockets that no network namespace holds back.
    NoFamily,
}

/// System call numbers: x86-64, i386 and aarch64; -1 where the architecture has none.
pub(super) struct Call {
    pub(super) x86_64: i32,
    pub(super) i386: i32,
    pub(super) aarch64: i32,
}

pub(super) const fn call(x86_64: i32, i386: i32, aarch64: i32) -> Call {
    Call {
        x86_64,
        i386,
        aarch64,
    }
}

/// fsync, fdatasync, sync, syncfs, msync, sync_file_range (i386 and ARM number it alike).
const SYNC: [Call; 6] = [
    call(74, 118, 82),
    call(75, 148, 83),
    call(162, 36, 81),
    call(306, 344, 267),
    call(26, 144, 227),
    call(277, 314, 84),
];
/// chmod, fchmod, fchmodat, fchmodat2 with the place of their mode argument.
const CHMOD: [(Call, u8); 4] = [
    (call(90, 15, -1), 1),
    (call(91, 94, 52), 1),
    (call(268, 306, 53), 2),
    (call(452, 452, 452), 2),
];
/// creat, mknod, mknodat with the place of their mode argument; mkdir takes no such bits.
const MAKE: [(Call, u8); 3] = [
    (call(85, 8, -1), 1),
    (call(133, 14, -1), 1),
    (call(259, 297, 33), 2),
];
/// open, openat with the place of their flags.
const OPEN: [(Call, u8); 2] = [(call(2, 5, -1), 1), (call(257, 295, 56), 2)];
/// openat2: the mode lies in memory, where no filter can look. Programs know kernels without this call, and take `openat` there.
const OPENAT2: Call = call(437, 437, 437);
/// The set, get, list and remove families, in the plain, `l`, `f` and `at` forms.
const XATTR: [Call; 16] = [
    call(188, 226, 5),
    call(189, 227, 6),
    call(190, 228, 7),
    call(191, 229, 8),
    call(192, 230, 9),
    call(193, 231, 10),
    call(194, 232, 11),
    call(195, 233, 12),
    call(196, 234, 13),
    call(197, 235, 14),
    call(198, 236, 15),
    call(199, 237, 16),
    call(463, 463, 463),
    call(464, 464, 464),
    call(465, 465, 465),
    call(466, 466, 466),
];
/// add_key, request_key, keyctl, kexec_load (which x32 numbers anew), kexec_file_load, bpf, perf_event_open, userfaultfd.
const FORBIDDEN: [Call; 9] = [
    call(248, 286, 217),
    call(249, 287, 218),
    call(250, 288, 219),
    call(246, 283, 104),
    call(528, -1, -1),
    call(320, -1, 294),
    call(321, 357, 280),
    call(298, 336, 241),
    call(323, 374, 282),
];
/// io_uring_setup: its requests pass no filter, so programs must believe that the kernel has none.
const IO_URING_SETUP: Call = call(425, 425, 425);

/// socket. The 32-bit `socketcall` has its arguments in memory, where no filter can look, and stays open: Debian's C library for i386
/// (2.36, built for kernels before this call) makes every socket by it, also those of the loopback interface, and takes no other way
/// when it is refused.
const SOCKET: Call = call(41, 359, 198);
/// Families that reach beyond the network namespace: vsock leads to the host of a virtual machine and to its guests, qipcrtr to the
/// other processors of a phone.
const FAMILIES: [u32; 2] = [libc::AF_VSOCK.unsigned_abs(), 42];

pub(super) const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
pub(super) const AUDIT_ARCH_I386: u32 = 0x4000_0003;
pub(super) const AUDIT_ARCH_AARCH64: u32 = 0xc000_00b7;
/// Marks the x32 calls of x86-64; below 512 they have the same numbers, and from there on x86-64 has none.
const X32_BIT: u32 = 0x4000_0000;

const LD_ABS: u16 = 0x20;
const JA: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const JSET: u16 = 0x45;
const AND: u16 = 0x54;
const RET: u16 = 0x06;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_ERRNO: u32 = 0x0005_0000;
/// Offsets in `seccomp_data`.
const DATA_NR: u32 = 0;
const DATA_ARCH: u32 = 4;
const DATA_ARGS: u32 = 16;
const SET_ID_BITS: u32 = 0o6000;
/// O_CREAT, and the bit of O_TMPFILE that is not also O_DIRECTORY: the same on all three.
const MAKES_A_FILE: u32 = 0o20_000_100;

fn op(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn rules(filter: Filter, number: fn(&Call) -> i32) -> Vec<(i32, Rule)> {
    let mut rules: Vec<(i32, Rule)> = Vec::new();
    let mut add = |call: &Call, rule| {
        if number(call) >= 0 {
            rules.push((number(call), rule));
        }
    };
    match filter {
        Filter::Step => SYNC.iter().for_each(|c| add(c, Rule::Errno(0))),
        Filter::Nix => {
            CHMOD
                .iter()
                .chain(&MAKE)
                .for_each(|(c, mode)| add(c, Rule::NoSetId(*mode)));
            OPEN.iter()
                .for_each(|(c, flags)| add(c, Rule::NoSetIdFile(*flags)));
            add(&OPENAT2, Rule::Errno(libc::ENOSYS));
            XATTR
                .iter()
                .for_each(|c| add(c, Rule::Errno(libc::ENOTSUP)));
        }
    }
    FORBIDDEN
        .iter()
        .for_each(|c| add(c, Rule::Errno(libc::EPERM)));
    add(&IO_URING_SETUP, Rule::Errno(libc::ENOSYS));
    add(&SOCKET, Rule::NoFamily);
    rules
}

/// Loads the low word of an argument, which comes first on the little-endian machines that sos supports.
fn load(argument: u8) -> sock_filter {
    op(LD_ABS, DATA_ARGS + 8 * u32::from(argument), 0, 0)
}

fn refuse(errno: i32) -> sock_filter {
    op(RET, RET_ERRNO | errno.unsigned_abs(), 0, 0)
}

/// What is done with a call that a rule is for: it always returns.
fn body(rule: Rule) -> Vec<sock_filter> {
    let allow = op(RET, RET_ALLOW, 0, 0);
    match rule {
        Rule::Errno(errno) => vec![refuse(errno)],
        Rule::NoSetId(mode) => vec![
            load(mode),
            op(JSET, SET_ID_BITS, 0, 1),
            refuse(libc::EPERM),
            allow,
        ],
        Rule::NoSetIdFile(flags) => vec![
            load(flags),
            op(JSET, MAKES_A_FILE, 0, 3),
            load(flags + 1),
            op(JSET, SET_ID_BITS, 0, 1),
            refuse(libc::EPERM),
            allow,
        ],
        Rule::Show => vec![op(RET, libc::SECCOMP_RET_USER_NOTIF, 0, 0)],
        Rule::NoFamily => {
            let mut body = vec![load(0)];
            for family in FAMILIES {
                body.push(op(JEQ, family, 0, 1));
                body.push(refuse(libc::EAFNOSUPPORT));
            }
            body.push(allow);
            body
        }
    }
}

/// Calls with numbers from the first to the last, and the one rule for all of them.
type Span = (u32, u32, Rule);

/// The rules in the order of their numbers, neighbours with the same rule as one.
fn spans(rules: &[(i32, Rule)]) -> Vec<Span> {
    let numbered = rules
        .iter()
        .map(|(number, rule)| (number.unsigned_abs(), *rule));
    let mut sorted: Vec<(u32, Rule)> = numbered.collect();
    sorted.sort_by_key(|(number, _)| *number);
    let mut spans: Vec<Span> = Vec::new();
    for (number, rule) in sorted {
        match spans.last_mut() {
            Some((_, last, same)) if *same == rule && *last + 1 == number => *last = number,
            _ => spans.push((number, number, rule)),
        }
    }
    spans
}

/// How far a conditional jump over this code goes; no half of a section comes near what fits.
fn over(code: &[sock_filter]) -> u8 {
    u8::try_from(code.len()).expect("the part of a filter for half of the calls is short")
}

/// Writes the part for one architecture: it begins with the call number in the accumulator and always returns.
///
/// A search by halves: what most calls pay for a filter is the way to the answer that there is no rule for them.
fn section(spans: &[Span]) -> Vec<sock_filter> {
    let allow = op(RET, RET_ALLOW, 0, 0);
    match spans {
        [] => vec![allow],
        [(first, last, rule)] => {
            let body = body(*rule);
            let skip = over(&body);
            let mut code = if first == last {
                vec![op(JEQ, *first, 0, skip)]
            } else {
                vec![op(JGE, *first, 0, skip + 1), op(JGT, *last, skip, 0)]
            };
            code.extend(body);
            code.push(allow);
            code
        }
        _ => {
            let (low, high) = spans.split_at(spans.len() / 2);
            let left = section(low);
            let mut code = vec![op(JGE, high[0].0, over(&left), 0)];
            code.extend(left);
            code.extend(section(high));
            code
        }
    }
}

/// Returns the whole program.
pub(super) fn program(filter: Filter) -> Vec<sock_filter> {
    of_sections(|number| rules(filter, number))
}

/// Returns a program that shows these calls, and lets all others pass.
pub(super) fn showing(calls: &[&Call]) -> Vec<sock_filter> {
    of_sections(|number| {
        let numbers = calls.iter().map(|call| number(call));
        let known = numbers.filter(|number| *number >= 0);
        known.map(|number| (number, Rule::Show)).collect()
    })
}

/// The number of a call of x86-64 without the mark of x32.
pub(super) fn without_x32(arch: u32, number: i32) -> i32 {
    if arch == AUDIT_ARCH_X86_64 {
        number & !X32_BIT.cast_signed()
    } else {
        number
    }
}

fn of_sections(rules: impl Fn(fn(&Call) -> i32) -> Vec<(i32, Rule)>) -> Vec<sock_filter> {
    let mut code = vec![op(LD_ABS, DATA_ARCH, 0, 0)];
    let sections = [
        (AUDIT_ARCH_X86_64, section(&spans(&rules(|c| c.x86_64)))),
        (AUDIT_ARCH_I386, section(&spans(&rules(|c| c.i386)))),
        (AUDIT_ARCH_AARCH64, section(&spans(&rules(|c| c.aarch64)))),
    ];
    for (arch, body) in sections {
        let mut head = vec![op(LD_ABS, DATA_NR, 0, 0)];
        if arch == AUDIT_ARCH_X86_64 {
            head.push(op(AND, !X32_BIT, 0, 0));
        }
        // A section is too long for the 8-bit offset of a conditional jump: jump over an unconditional one.
        let length = u32::try_from(head.len() + body.len()).unwrap_or(u32::MAX);
        code.push(op(JEQ, arch, 1, 0));
        code.push(op(JA, length, 0, 0));
        code.extend(head);
        code.extend(body);
    }
    code.push(op(RET, RET_ALLOW, 0, 0));
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel does, on what the kernel would show it; gives its answer and how many instructions that took.
    fn run(filter: Filter, arch: u32, nr: u32, args: [u32; 6]) -> (u32, usize) {
        let code = program(filter);
        let (mut at, mut acc) = (0usize, 0u32);
        for steps in 1.. {
            let i = &code[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { i.jt } else { i.jf });
            match i.code {
                LD_ABS => {
                    acc = match i.k {
                        DATA_NR => nr,
                        DATA_ARCH => arch,
                        k => args[((k - DATA_ARGS) / 8) as usize],
                    }
                }
                AND => acc &= i.k,
                JEQ => at += jump(acc == i.k),
                JGE => at += jump(acc >= i.k),
                JGT => at += jump(acc > i.k),
                JSET => at += jump(acc & i.k != 0),
                JA => at += i.k as usize,
                RET => return (i.k, steps),
                other => panic!("instruction {other:#x}"),
            }
        }
        unreachable!("a program ends")
    }

    #[track_caller]
    fn check(filter: Filter, arch: u32, nr: u32, args: [u32; 6], expect: Result<(), i32>) {
        let expect = match expect {
            Ok(()) => RET_ALLOW,
            Err(errno) => RET_ERRNO | errno.unsigned_abs(),
        };
        assert_eq!(run(filter, arch, nr, args).0, expect);
    }

    /// The rule for each number that there may be, found by looking at all of them.
    #[test]
    fn the_search_finds_what_the_list_says() {
        for filter in [Filter::Nix, Filter::Step] {
            let entries = [
                (AUDIT_ARCH_X86_64, 0, rules(filter, |c| c.x86_64)),
                (AUDIT_ARCH_X86_64, X32_BIT, rules(filter, |c| c.x86_64)),
                (AUDIT_ARCH_I386, 0, rules(filter, |c| c.i386)),
                (AUDIT_ARCH_AARCH64, 0, rules(filter, |c| c.aarch64)),
            ];
            for (arch, mark, list) in entries {
                for nr in 0..600 {
                    let rule = list.iter().find(|(n, _)| n.unsigned_abs() == nr);
                    let args = [40, u32::MAX, u32::MAX, u32::MAX, 0, 0];
                    let expect = match rule.map(|(_, rule)| *rule) {
                        None => Ok(()),
                        Some(Rule::Errno(errno)) => Err(errno),
                        Some(Rule::NoFamily) => Err(libc::EAFNOSUPPORT),
                        Some(Rule::NoSetId(_) | Rule::NoSetIdFile(_)) => Err(libc::EPERM),
                        Some(Rule::Show) => panic!("a rule of who watches"),
                    };
                    check(filter, arch, mark | nr, args, expect);
                }
            }
        }
    }

    /// What a call that no rule is for costs, and an `open`, which compilers make most of.
    #[test]
    fn calls_without_a_rule_are_let_pass_soon() {
        for (arch, common) in [
            // read, write, close, fstat, mmap, openat, newfstatat
            (AUDIT_ARCH_X86_64, [0, 1, 3, 5, 9, 257, 262]),
            (AUDIT_ARCH_I386, [3, 4, 6, 108, 192, 295, 300]),
            (AUDIT_ARCH_AARCH64, [63, 64, 57, 80, 222, 56, 79]),
        ] {
            for filter in [Filter::Nix, Filter::Step] {
                for nr in common {
                    let (answer, steps) = run(filter, arch, nr, [0; 6]);
                    assert_eq!(answer, RET_ALLOW);
                    assert!(steps <= 17, "{filter:?} {arch:#x} {nr}: {steps}");
                }
            }
        }
    }

    #[test]
    fn files_are_made_without_set_id_bits() {
        use Filter::{Nix, Step};
        const X: u32 = AUDIT_ARCH_X86_64;
        const CREATE: u32 = libc::O_CREAT.unsigned_abs();
        const TMPFILE: u32 = libc::O_TMPFILE.unsigned_abs();
        // The places of the flags, if there are some, and of the mode.
        let made: [(u32, u32, Option<usize>, usize); 15] = [
            (X, 2, Some(1), 2),
            (X, 257, Some(2), 3),
            (X, 85, None, 1),
            (X, 133, None, 1),
            (X, 259, None, 2),
            (X, X32_BIT | 2, Some(1), 2),
            (X, X32_BIT | 257, Some(2), 3),
            (X, X32_BIT | 133, None, 1),
            (AUDIT_ARCH_I386, 5, Some(1), 2),
            (AUDIT_ARCH_I386, 295, Some(2), 3),
            (AUDIT_ARCH_I386, 8, None, 1),
            (AUDIT_ARCH_I386, 14, None, 1),
            (AUDIT_ARCH_I386, 297, None, 2),
            (AUDIT_ARCH_AARCH64, 56, Some(2), 3),
            (AUDIT_ARCH_AARCH64, 33, None, 2),
        ];
        for (arch, nr, flags, mode) in made {
            for bits in [0o4755, 0o2755, 0o755] {
                let mut args = [0; 6];
                args[mode] = bits;
                let refused = if bits == 0o755 {
                    Ok(())
                } else {
                    Err(libc::EPERM)
                };
                let Some(flags) = flags else {
                    check(Nix, arch, nr, args, refused);
                    check(Step, arch, nr, args, Ok(()));
                    continue;
                };
                // Without these flags there is no such argument: whatever the register holds means nothing.
                check(Nix, arch, nr, args, Ok(()));
                args[flags] = libc::O_DIRECTORY.unsigned_abs();
                check(Nix, arch, nr, args, Ok(()));
                for makes in [CREATE, TMPFILE] {
                    args[flags] = makes | libc::O_RDWR.unsigned_abs();
                    check(Nix, arch, nr, args, refused);
                    check(Step, arch, nr, args, Ok(()));
                }
            }
        }
        for arch in [X, AUDIT_ARCH_I386, AUDIT_ARCH_AARCH64] {
            check(Nix, arch, 437, [0; 6], Err(libc::ENOSYS));
            check(Step, arch, 437, [0; 6], Ok(()));
        }
    }

    #[test]
    fn each_entry_is_covered() {
        use Filter::{Nix, Step};
        let none = [0; 6];
        check(Nix, AUDIT_ARCH_X86_64, 0, none, Ok(()));
        check(Nix, AUDIT_ARCH_X86_64, 188, none, Err(libc::ENOTSUP));
        check(
            Nix,
            AUDIT_ARCH_X86_64,
            X32_BIT | 188,
            none,
            Err(libc::ENOTSUP),
        );
        check(Nix, AUDIT_ARCH_I386, 226, none, Err(libc::ENOTSUP));
        check(Nix, AUDIT_ARCH_AARCH64, 5, none, Err(libc::ENOTSUP));
        check(
            Nix,
            AUDIT_ARCH_X86_64,
            90,
            [0, 0o4755, 0, 0, 0, 0],
            Err(libc::EPERM),
        );
        check(Nix, AUDIT_ARCH_X86_64, 90, [0, 0o755, 0, 0, 0, 0], Ok(()));
        check(
            Nix,
            AUDIT_ARCH_X86_64,
            452,
            [0, 0, 0o2755, 0, 0, 0],
            Err(libc::EPERM),
        );
        check(
            Nix,
            AUDIT_ARCH_I386,
            15,
            [0, 0o2755, 0, 0, 0, 0],
            Err(libc::EPERM),
        );
        check(Nix, AUDIT_ARCH_X86_64, 74, none, Ok(()));
        check(Step, AUDIT_ARCH_X86_64, 74, none, Err(0));
        check(Step, AUDIT_ARCH_I386, 118, none, Err(0));
        check(Step, AUDIT_ARCH_X86_64, 90, [0, 0o4755, 0, 0, 0, 0], Ok(()));
        check(Step, AUDIT_ARCH_X86_64, 188, none, Ok(()));
        check(Step, AUDIT_ARCH_X86_64, 250, none, Err(libc::EPERM));
        check(
            Nix,
            AUDIT_ARCH_X86_64,
            X32_BIT | 528,
            none,
            Err(libc::EPERM),
        );
        check(Step, AUDIT_ARCH_X86_64, 425, none, Err(libc::ENOSYS));
        check(Step, 1, 425, none, Ok(()));
        for (arch, number) in [
            (AUDIT_ARCH_X86_64, 41),
            (AUDIT_ARCH_X86_64, X32_BIT | 41),
            (AUDIT_ARCH_I386, 359),
            (AUDIT_ARCH_AARCH64, 198),
        ] {
            for filter in [Nix, Step] {
                let family = |family: u32| [family, 1, 0, 0, 0, 0];
                check(filter, arch, number, family(40), Err(libc::EAFNOSUPPORT));
                check(filter, arch, number, family(42), Err(libc::EAFNOSUPPORT));
                for usual in [
                    libc::AF_UNIX,
                    libc::AF_INET,
                    libc::AF_INET6,
                    libc::AF_NETLINK,
                ] {
                    check(filter, arch, number, family(usual.unsigned_abs()), Ok(()));
                }
            }
        }
    }
}
