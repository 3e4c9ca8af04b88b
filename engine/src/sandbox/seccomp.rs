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

/// socket. The 32-bit `socketcall` has its arguments in memory, where no filter can look, and stays open: the C library of i386 makes
/// every socket by it, also those of the loopback interface, and takes no other way when it is refused.
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
const JEQ: u16 = 0x15;
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
                .for_each(|(c, argument)| add(c, Rule::NoSetId(*argument)));
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

/// Writes the part for one architecture: it begins with the call number in the accumulator and always returns.
fn section(rules: &[(i32, Rule)]) -> Vec<sock_filter> {
    let mut code = Vec::new();
    for (number, rule) in rules {
        let body = match rule {
            Rule::Errno(errno) => vec![op(RET, RET_ERRNO | errno.unsigned_abs(), 0, 0)],
            Rule::NoSetId(argument) => vec![
                // The low word comes first on the little-endian machines that sos supports.
                op(LD_ABS, DATA_ARGS + 8 * u32::from(*argument), 0, 0),
                op(JSET, SET_ID_BITS, 0, 1),
                op(RET, RET_ERRNO | libc::EPERM.unsigned_abs(), 0, 0),
                op(RET, RET_ALLOW, 0, 0),
            ],
            Rule::Show => vec![op(RET, libc::SECCOMP_RET_USER_NOTIF, 0, 0)],
            Rule::NoFamily => {
                let mut body = vec![op(LD_ABS, DATA_ARGS, 0, 0)];
                for family in FAMILIES {
                    body.push(op(JEQ, family, 0, 1));
                    body.push(op(RET, RET_ERRNO | libc::EAFNOSUPPORT.unsigned_abs(), 0, 0));
                }
                body.push(op(RET, RET_ALLOW, 0, 0));
                body
            }
        };
        let skip = u8::try_from(body.len()).unwrap_or(u8::MAX);
        code.push(op(JEQ, number.unsigned_abs(), 0, skip));
        code.extend(body);
    }
    code.push(op(RET, RET_ALLOW, 0, 0));
    code
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
        (AUDIT_ARCH_X86_64, section(&rules(|c| c.x86_64))),
        (AUDIT_ARCH_I386, section(&rules(|c| c.i386))),
        (AUDIT_ARCH_AARCH64, section(&rules(|c| c.aarch64))),
    ];
    for (arch, body) in sections {
        let mut head = vec![op(LD_ABS, DATA_NR, 0, 0)];
        if arch == AUDIT_ARCH_X86_64 {
            head.push(op(AND, !X32_BIT, 0, 0));
        }
        // A section is too long for the 8-bit offset of a conditional jump: jump over an unconditional one.
        let length = u32::try_from(head.len() + body.len()).unwrap_or(u32::MAX);
        code.push(op(JEQ, arch, 1, 0));
        code.push(op(0x05, length, 0, 0));
        code.extend(head);
        code.extend(body);
    }
    code.push(op(RET, RET_ALLOW, 0, 0));
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel does, on what the kernel would show it.
    #[track_caller]
    fn check(filter: Filter, arch: u32, nr: u32, args: [u32; 6], expect: Result<(), i32>) {
        let code = program(filter);
        let (mut at, mut acc) = (0usize, 0u32);
        let result = loop {
            let i = &code[at];
            at += 1;
            match i.code {
                LD_ABS => {
                    acc = match i.k {
                        DATA_NR => nr,
                        DATA_ARCH => arch,
                        k => args[((k - DATA_ARGS) / 8) as usize],
                    }
                }
                AND => acc &= i.k,
                JEQ => at += usize::from(if acc == i.k { i.jt } else { i.jf }),
                JSET => at += usize::from(if acc & i.k != 0 { i.jt } else { i.jf }),
                0x05 => at += i.k as usize,
                RET => break i.k,
                other => panic!("instruction {other:#x}"),
            }
        };
        let expect = match expect {
            Ok(()) => RET_ALLOW,
            Err(errno) => RET_ERRNO | errno.unsigned_abs(),
        };
        assert_eq!(result, expect);
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
