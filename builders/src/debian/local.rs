//! Packages that lie beside the recipe: their control fields, in the form of an index stanza.

use std::fs::File;
use std::io::{self, BufReader, Read};

use sos_formats::deb::{DebReader, Paragraphs};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::lock::LocalDeb;
use sos_formats::tar;

use super::codec::decoder;
use super::suite::labelled;

/// The control file of a real package is some kilobytes.
const MAX_CONTROL_BYTES: u64 = 4 << 20;

/// Reads the stanza of a package file as an index would hold it.
pub(crate) fn stanza(deb: &LocalDeb) -> Result<String, Box<Diagnostic>> {
    let fail = |why: String| {
        let message = format!(
            "`{}` is not a Debian package that can be read: {why}",
            deb.path.text
        );
        Box::new(labelled(
            Diagnostic::error("deb-bad-package", Class::Recipe, message),
            deb.path.label.as_ref(),
        ))
    };
    let control = control_text(deb).map_err(|err| fail(err.to_string()))?;
    let mut paragraphs = Paragraphs::new(&control);
    let fields = match (paragraphs.next(), paragraphs.next()) {
        (Some(Ok(fields)), None) => fields,
        (Some(Err(err)), _) | (_, Some(Err(err))) => {
            return Err(fail(format!("control file: {err}")));
        }
        _ => return Err(fail("its control file is not one paragraph".into())),
    };
    let mut text = String::new();
    for field in fields.fields() {
        // What the file says of itself never stands in for what was measured.
        if !["Filename", "Size", "SHA256"]
            .iter()
            .any(|name| field.name.eq_ignore_ascii_case(name))
        {
            text.push_str(&format!("{}: {}\n", field.name, field.value));
        }
    }
    text.push_str(&format!(
        "Filename: {}\nSize: {}\nSHA256: {}\n\n",
        deb.path.text.trim_start_matches("./"),
        deb.size,
        deb.sha256
    ));
    Ok(text)
}

fn control_text(deb: &LocalDeb) -> io::Result<String> {
    let mut reader =
        DebReader::new(BufReader::new(File::open(&deb.physical)?)).map_err(io::Error::other)?;
    let codec = reader.control().map_err(io::Error::other)?;
    let mut archive = tar::Reader::new(decoder(codec, reader)?);
    while let Some(entry) = archive.next_entry().map_err(io::Error::other)? {
        if entry.path == b"control" {
            let mut text = String::new();
            archive.take(MAX_CONTROL_BYTES).read_to_string(&mut text)?;
            return Ok(text);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "it holds no control file",
    ))
}
