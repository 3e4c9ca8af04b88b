//! Random inputs: none may crash, hang or eat the memory. A child process evaluates them, so that a stack that overflows is a
//! finding and not the end of the tests.
//!
//! `SOS_FUZZ_SECS` is how long it runs in all, `SOS_FUZZ_SEED` where it begins. What is found is printed and kept in a directory that
//! the message names; put it into `regressions/` when it is repaired.

mod generate;
mod mutate;
mod same;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::host::MemoryHost;
use crate::random::{Random, setting};
use generate::Generator;

/// Seconds that the tests of this module may take together, unless the environment says otherwise.
const DEFAULT_SECS: u64 = 20;
/// One input may take this long, on a machine that is busy with others.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a child may take: an input that needs more is a finding.
const MAX_BYTES: u64 = 3 << 30;
/// A child that holds this much makes way for a new one: values are never freed.
const ENOUGH_BYTES: u64 = 1 << 30;
/// What a child prints when it is done.
const DONE: &str = "done";

pub(super) fn seconds() -> u64 {
    setting("SOS_FUZZ_SECS", DEFAULT_SECS)
}

/// The input with that number.
fn input(seed: u64, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut r = Random::new(seed);
    match r.below(3) {
        0 => Generator::new(&mut r, 15).expression().into_bytes(),
        1 => {
            let made = Generator::new(&mut r, 5).expression().into_bytes();
            mutate::mutate(&mut r, &[made])
        }
        _ => mutate::mutate(&mut r, corpus),
    }
}

/// Texts to start from: the language tests, the expressions compared with Nix, and what was found before.
fn corpus() -> Vec<Vec<u8>> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut all: Vec<Vec<u8>> = include_str!("../../peer/expressions.txt")
        .lines()
        .map(|l| l.as_bytes().to_vec())
        .collect();
    for dir in ["lang", "it/fuzz/regressions"] {
        let mut files: Vec<_> = std::fs::read_dir(tests.join(dir))
            .into_iter()
            .flatten()
            .map(|e| e.unwrap().path())
            .filter(|p| p.extension().is_some_and(|e| e == "nix"))
            .collect();
        files.sort();
        all.extend(files.iter().map(|f| std::fs::read(f).unwrap()));
    }
    all
}

/// Everything that can be done with a text.
fn digest(text: &[u8]) {
    let text = text.to_vec();
    sos_lang::with_big_stack(move || {
        let host = MemoryHost::new(&[("/src/a.nix", "{ x = 1; }"), ("/src/x", "x")]);
        let e = sos_lang::Evaluator::new(host, sos_lang::Options::default());
        let at = Path::new("/src");
        let _canonical = e.parse_canonical(&text, "fuzz.nix", at);
        let Ok(value) = e.eval_bytes(&text, "fuzz.nix", at) else {
            return;
        };
        let _json = e.to_json(value);
        let _xml = e.to_xml(value, true);
        let _drvs = e.derivations(value);
        if let Ok(value) = e.force_deep(value) {
            let _printed = e.print_bytes(value);
            let _text = e.to_str(value);
        }
    });
}

/// Bytes that a process has in memory.
fn resident(pid: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

/// Runs inputs from a seed on, and says each number before.
#[test]
#[ignore = "the child of the test below"]
fn child() {
    let corpus = corpus();
    let mut out = std::io::stdout();
    let mut seed = setting("SOS_FUZZ_CHILD", 0);
    while resident("self") < ENOUGH_BYTES {
        writeln!(out, "seed {seed}").unwrap();
        out.flush().unwrap();
        digest(&input(seed, &corpus));
        seed += 1;
    }
    writeln!(out, "{DONE}").unwrap();
}

fn spawn(seed: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["fuzz::child", "--exact", "--ignored", "--nocapture"])
        .env("SOS_FUZZ_CHILD", seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Runs one child until it is done or the time is over. Returns the next seed, or what went wrong with which one.
fn watch(seed: u64, until: Instant) -> Result<u64, (u64, String)> {
    let mut child = spawn(seed);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, receiver) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let pid = child.id().to_string();
    let (mut last, mut since) = (seed, now());
    let outcome = loop {
        match receiver.recv_timeout(Duration::from_millis(200)) {
            Ok(line) if line == DONE => break Ok(last + 1),
            Ok(line) => {
                if let Some(number) = line.split("seed ").nth(1).and_then(|n| n.parse().ok()) {
                    (last, since) = (number, now());
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let status = child.wait().unwrap();
                break Err((last, format!("it crashed: {status}")));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if since.elapsed() > PATIENCE {
            break Err((last, format!("it took longer than {PATIENCE:?}")));
        }
        if resident(&pid) > MAX_BYTES {
            break Err((last, "it took too much memory".to_owned()));
        }
        if now() > until {
            break Ok(last + 1);
        }
    };
    let _gone = child.kill();
    let _status = child.wait();
    let _read = reader.join();
    outcome
}

#[allow(clippy::disallowed_methods, reason = "how long a test runs")]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[test]
#[allow(clippy::print_stderr, reason = "findings are for people")]
fn no_input_crashes_the_evaluator() {
    let until = now() + Duration::from_secs(seconds() * 2 / 3);
    let corpus = corpus();
    let mut seed = setting("SOS_FUZZ_SEED", 1);
    let first = seed;
    let mut findings = Vec::new();
    while now() < until && findings.len() < 20 {
        match watch(seed, until) {
            Ok(next) => seed = next,
            Err((bad, why)) => {
                let dir = std::env::temp_dir().join("sos-fuzz");
                std::fs::create_dir_all(&dir).unwrap();
                let file = dir.join(format!("{bad}.nix"));
                let text = input(bad, &corpus);
                std::fs::write(&file, &text).unwrap();
                findings.push(format!(
                    "{}: {why}\n{}",
                    file.display(),
                    String::from_utf8_lossy(&text)
                ));
                seed = bad + 1;
            }
        }
    }
    eprintln!("{} inputs", seed - first);
    assert!(findings.is_empty(), "{}", findings.join("\n\n"));
}

/// What was found once stays repaired.
#[test]
fn what_was_found_before() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fuzz/regressions");
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        digest(&std::fs::read(entry.unwrap().path()).unwrap());
    }
}
