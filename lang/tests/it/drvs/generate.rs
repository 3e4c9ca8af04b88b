//! Writes random derivations as a person could, only worse.

use crate::random::Random;

/// What a derivation is, as far as those that use it must know.
pub(super) struct Made {
    outputs: Vec<&'static str>,
    /// Its paths are known only after a build.
    unknown: bool,
}

/// A text of `count` derivations `d0`, `d1`, ...; the value is the list of them.
pub(super) fn derivations(r: &mut Random, count: usize) -> Vec<u8> {
    let mut text = b"let\n".to_vec();
    let mut made: Vec<Made> = Vec::new();
    for i in 0..count {
        text.extend(format!("  d{i} = derivation {{\n").bytes());
        let next = derivation(r, &mut text, &made);
        made.push(next);
        text.extend(b"  };\n");
    }
    let names: Vec<String> = (0..count).map(|i| format!("d{i}")).collect();
    text.extend(format!("in [ {} ]\n", names.join(" ")).bytes());
    text
}

fn derivation(r: &mut Random, text: &mut Vec<u8>, made: &[Made]) -> Made {
    let structured = r.chance(20);
    let kind = r.below(10);
    let (fixed, floating) = (kind < 2, (2..4).contains(&kind));
    let mut attr = |name: &str, value: &[u8]| {
        text.extend(format!("    {name} = ").bytes());
        text.extend(value);
        text.extend(b";\n");
    };
    attr("name", quoted(&name(r)).as_bytes());
    let system = ["x86_64-linux", "builtin", "any thing", "i686-linux"];
    attr("system", quoted(r.pick(&system)).as_bytes());
    let mut w = Writer {
        r,
        made,
        structured,
    };
    let builder = match w.r.below(3) {
        0 if !structured => b"./src/tool".to_vec(),
        0 | 1 => b"\"/bin/sh\"".to_vec(),
        // An empty one is refused.
        _ => {
            let text = w.string();
            [b"(\"/b\" + ", &text[..], b")"].concat()
        }
    };
    attr("builder", &builder);
    if w.r.chance(60) {
        let args = w.list(0);
        attr("args", &args);
    }
    let all: [&[&str]; 6] = [
        &["out"],
        &["out", "dev"],
        &["dev", "out"],
        &["bin", "lib", "out", "man"],
        &["lib"],
        &["x-1", "X_2", "a"],
    ];
    let outputs = if fixed {
        all[0]
    } else {
        all[w.r.below(all.len())]
    };
    if outputs != ["out"] || w.r.chance(20) {
        let list: Vec<String> = outputs.iter().map(|o| quoted(o)).collect();
        attr("outputs", format!("[ {} ]", list.join(" ")).as_bytes());
    }
    if fixed {
        let (hash, algo) = hash(w.r);
        attr("outputHash", quoted(&hash).as_bytes());
        if !algo.is_empty() {
            attr("outputHashAlgo", quoted(algo).as_bytes());
        }
        if w.r.chance(60) {
            let mode = w.r.pick(&["flat", "recursive"]);
            attr("outputHashMode", quoted(mode).as_bytes());
        }
    } else if floating {
        let kind = w.r.pick(&["__contentAddressed", "__impure"]);
        attr(kind, b"true");
        attr(
            "outputHashMode",
            quoted(w.r.pick(&["recursive", "flat"])).as_bytes(),
        );
        attr(
            "outputHashAlgo",
            quoted(w.r.pick(&["sha256", "sha512", "sha1"])).as_bytes(),
        );
    }
    if structured {
        attr("__structuredAttrs", b"true");
    }
    if w.r.chance(25) {
        let value = w.r.pick(&["true", "false"]);
        attr("__ignoreNulls", value.as_bytes());
    }
    let mut uses_unknown = false;
    for i in 0..w.r.below(8) {
        let name = attribute(w.r, i);
        let value = if structured { w.json(0) } else { w.value(0) };
        attr(&name, &value);
    }
    if w.r.chance(15) {
        let long: String = "long text ".repeat(w.r.below(200));
        attr("text", quoted(&long).as_bytes());
        attr("passAsFile", b"[ \"text\" ]");
    }
    if w.r.chance(10) {
        let list = w.list(1);
        attr("allowedReferences", &list);
    }
    if !made.is_empty() && w.r.chance(70) {
        // A deep chain, with everything that an input of it brings along.
        let last = made.len() - 1;
        attr("previous", format!("\"${{d{last}}}\"").as_bytes());
        uses_unknown = made[last].unknown;
    }
    Made {
        outputs: outputs.to_vec(),
        unknown: floating || uses_unknown,
    }
}

/// Names of store objects, with every character that they may have.
fn name(r: &mut Random) -> String {
    let alphabet: Vec<char> = ('a'..='z')
        .chain('A'..='Z')
        .chain('0'..='9')
        .chain("+-._?=".chars())
        .collect();
    let length = match r.below(10) {
        0 => 1,
        1 => 150 + r.below(40),
        _ => 1 + r.below(20),
    };
    // A first full stop is refused by newer versions.
    let mut name = String::from('n');
    name.extend((1..length).map(|_| alphabet[r.below(alphabet.len())]));
    if name.ends_with(".drv") {
        name + "x"
    } else {
        name
    }
}

fn attribute(r: &mut Random, number: usize) -> String {
    match r.below(6) {
        0 => format!("\"odd name {number} \\\" \\\\ \\n\""),
        1 => format!("\"{number}\""),
        2 => format!("Z{number}"),
        3 => format!("a{number}'-_"),
        4 => format!("\"ä{number}\""),
        _ => format!("v{number}"),
    }
}

fn quoted(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace("${", "\\${");
    format!("\"{escaped}\"")
}

/// Hashes in every spelling.
fn hash(r: &mut Random) -> (String, &'static str) {
    let known: [(&str, &[&str]); 4] = [
        (
            "md5",
            &[
                "d41d8cd98f00b204e9800998ecf8427e",
                "3y8bwfr609h3lh9ch0izcqq7fl",
                "1B2M2Y8AsgTpgAmY7PhCfg==",
            ],
        ),
        (
            "sha1",
            &[
                "da39a3ee5e6b4b0d3255bfef95601890afd80709",
                "143xibwh31h9bvxzalr0sjvbbvpa6ffs",
                "2jmj7l5rSw0yVb/vlWAYkK/YBwk=",
            ],
        ),
        (
            "sha256",
            &[
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
                "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            ],
        ),
        (
            "sha512",
            &[
                "z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==",
            ],
        ),
    ];
    let (algo, spellings) = known[r.below(known.len())];
    let spelling = r.pick(spellings);
    match r.below(3) {
        0 if spelling.ends_with('=') => (format!("{algo}-{spelling}"), r.pick(&["", algo])),
        1 => (format!("{algo}:{spelling}"), r.pick(&["", algo])),
        _ => (spelling.to_owned(), algo),
    }
}

/// Writes values that may use what was made before.
struct Writer<'a> {
    r: &'a mut Random,
    made: &'a [Made],
    /// Strings end up in JSON, which holds no bytes that are not UTF-8.
    structured: bool,
}

impl Writer<'_> {
    /// Something that becomes a string of the environment.
    fn value(&mut self, depth: usize) -> Vec<u8> {
        match self.r.below(if depth < 2 { 12 } else { 10 }) {
            0..4 => self.string(),
            4 => self.number(),
            5 => self.r.pick(&["true", "false", "null"]).as_bytes().to_vec(),
            6 | 7 => self.reference(),
            8 => b"./src".to_vec(),
            9 => b"./src/text".to_vec(),
            10 => b"{ outPath = "
                .iter()
                .copied()
                .chain(self.string())
                .chain(*b"; }")
                .collect(),
            _ => self.list(depth),
        }
    }

    fn list(&mut self, depth: usize) -> Vec<u8> {
        let mut out = b"[ ".to_vec();
        for _ in 0..self.r.below(5) {
            out.push(b'(');
            out.extend(self.value(depth + 1));
            out.extend(b") ");
        }
        out.push(b']');
        out
    }

    /// Something that becomes JSON.
    fn json(&mut self, depth: usize) -> Vec<u8> {
        match self.r.below(if depth < 3 { 10 } else { 6 }) {
            0 => self.string(),
            1 => self.number(),
            // Whole numbers: newer versions write 1.0 where 2.8 wrote 1.
            2 => self
                .r
                .pick(&[
                    "true", "false", "null", "1.5", "0.1", "-2.25", "1.5e300", "1.0e-7",
                ])
                .as_bytes()
                .to_vec(),
            3 => self.reference(),
            4 => b"./src/text".to_vec(),
            5 => self.string(),
            6 | 7 => {
                let mut out = b"{ ".to_vec();
                for i in 0..self.r.below(4) {
                    out.extend(format!("{} = ", attribute(self.r, i)).bytes());
                    out.extend(self.json(depth + 1));
                    out.extend(b"; ");
                }
                out.push(b'}');
                out
            }
            _ => {
                let mut out = b"[ ".to_vec();
                for _ in 0..self.r.below(4) {
                    out.push(b'(');
                    out.extend(self.json(depth + 1));
                    out.extend(b") ");
                }
                out.push(b']');
                out
            }
        }
    }

    fn number(&mut self) -> Vec<u8> {
        let n = self.r.next() as i64 >> self.r.below(64);
        format!("({n})")
            .replace("-9223372036854775808", "0 - 1")
            .into_bytes()
    }

    /// A string with what is awkward in it.
    fn string(&mut self) -> Vec<u8> {
        let mut out = b"\"".to_vec();
        for _ in 0..self.r.below(6) {
            match self.r.below(10) {
                0 => out.extend(b"\\n\\t\\r"),
                1 => out.extend(b"\\\"\\\\"),
                2 => out.extend("äöü €".bytes()),
                3 if !self.structured => out.extend([0xff, 0x80, 1, 7, 0x1b, 0x7f]),
                3 => out.extend([1, 7, 0x1b, 0x7f]),
                4 => out.extend(b"$ $$ \\${x} ''"),
                5 | 6 => {
                    out.extend(b"${");
                    out.extend(self.reference());
                    out.push(b'}');
                }
                7 => out.extend(b"  spaces  "),
                _ => out.extend(b"plain"),
            }
        }
        out.push(b'"');
        out
    }

    /// A string with a context.
    fn reference(&mut self) -> Vec<u8> {
        let count = self.made.len();
        if count == 0 || self.r.chance(30) {
            return match self.r.below(6) {
                0 => b"builtins.toFile \"text\" \"${builtins.toFile \"inner\" \"x\"} y\"".to_vec(),
                1 => b"\"${./src}/tool\"".to_vec(),
                2 => b"(builtins.path { path = ./src; name = \"part\"; filter = p: t: t == \"regular\"; })".to_vec(),
                3 => b"(builtins.path { path = ./src/text; name = \"flat\"; recursive = false; })".to_vec(),
                4 => b"(builtins.filterSource (p: t: baseNameOf p != \"text\") ./src)".to_vec(),
                _ => b"(builtins.placeholder \"out\")".to_vec(),
            };
        }
        // Near ones, so that chains become deep.
        let back = self.r.below(count.min(8));
        let at = count - 1 - back;
        let Made { outputs, unknown } = &self.made[at];
        let output = self.r.pick(outputs);
        let text = match self.r.below(9) {
            0 => format!("d{at}.drvPath"),
            1 => format!("(builtins.unsafeDiscardOutputDependency d{at}.drvPath)"),
            2 => format!("(builtins.unsafeDiscardStringContext \"${{d{at}}}\")"),
            3 => format!("(builtins.substring 0 0 \"${{d{at}.{output}}}\")"),
            4 => format!("(builtins.toJSON [ d{at}.outPath d{at}.name ])"),
            5 if !unknown => format!(
                "(builtins.toFile \"refers\" (builtins.unsafeDiscardStringContext d{at}.{output}))"
            ),
            6 => format!("(builtins.head (builtins.split \"/\" \"${{d{at}.{output}}}\"))"),
            7 => format!("d{at}"),
            _ => format!("d{at}.{output}"),
        };
        text.into_bytes()
    }
}
