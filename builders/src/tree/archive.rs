//! Archives and single files behind URLs.

use std::fs::File;
use std::path::Path;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::flake_ref;

use super::{Answer, Found, Request, Trees, io, of_store, problem};
use crate::fetch::{self, FetchError, FileSink, Quiet};

/// The most bytes of an archive that is fetched without a hash.
const MAX_ARCHIVE_BYTES: u64 = 4 << 30;

/// What an archive says about itself.
pub(super) struct Opened {
    /// The time of the directory at its top.
    pub(super) modified: i64,
    /// The commit that git made it from.
    pub(super) commit: Option<String>,
}

/// Unpacks the archive in a file; the one directory at its top becomes `out`. `work` is an empty directory.
///
/// # Errors
/// When the file is no archive, or has several things at its top.
pub fn unpack_archive(
    file: &mut File,
    work: &Path,
    out: &Path,
    name: &str,
) -> Result<(), Box<Diagnostic>> {
    open(file, work, out, name).map(drop)
}

fn open(file: &mut File, work: &Path, out: &Path, name: &str) -> Answer<Opened> {
    let bad = |e: fetch::Failure| {
        Box::new(match e {
            fetch::Failure::Write(error) => fetch::unwritable(name, &error),
            other => Diagnostic::error(
                "fetch-bad-archive",
                Class::Fetch,
                format!("`{name}` cannot be unpacked"),
            )
            .note(other.to_string()),
        })
    };
    let commit = fetch::commit_of_archive(file).map_err(bad)?;
    let modified = fetch::unpack(file, work, out).map_err(bad)?;
    Ok(Opened { modified, commit })
}

impl Trees {
    pub(super) fn archive(&self, request: &Request) -> Answer<Found> {
        let url = flake_ref::text(&request.attrs, "url").unwrap_or_default();
        let (found, _) = self.archive_at(&[url.to_owned()], request)?;
        Ok(found)
    }

    /// Fetches and unpacks the archive that the first of several URLs delivers.
    pub(super) fn archive_at(&self, urls: &[String], request: &Request) -> Answer<(Found, Opened)> {
        let dir = self.store.temp_dir("tree").map_err(of_store)?;
        let name = urls.first().map_or("archive", String::as_str).to_owned();
        let mut file = self.download(urls, &dir.path().join("archive"))?;
        let (work, out) = (dir.path().join("work"), dir.path().join("tree"));
        std::fs::create_dir(&work).map_err(|e| io("make", &work, &e))?;
        let opened = open(&mut file, &work, &out, &name)?;
        let found = Found {
            path: self.add(&out, &request.name)?,
            attrs: request.attrs.clone(),
            warnings: Vec::new(),
        };
        Ok((found, opened))
    }

    /// A single file, as it is.
    pub(super) fn file(&self, request: &Request) -> Answer<Found> {
        let url = flake_ref::text(&request.attrs, "url").unwrap_or_default();
        let dir = self.store.temp_dir("tree").map_err(of_store)?;
        let place = dir.path().join("file");
        drop(self.download(&[url.to_owned()], &place)?);
        Ok(Found {
            path: self.add(&place, &request.name)?,
            attrs: request.attrs.clone(),
            warnings: Vec::new(),
        })
    }

    fn download(&self, urls: &[String], place: &Path) -> Answer<File> {
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(place);
        let file = file.map_err(|e| io("create", place, &e))?;
        let shown = file.try_clone().map_err(|e| io("open", place, &e))?;
        let mut sink = FileSink::new(file, place);
        let request = fetch::Request {
            name: urls.first().map_or("archive", String::as_str),
            urls,
            hash: None,
            written: None,
            size: None,
            limit: MAX_ARCHIVE_BYTES,
            fixed_output: false,
            offline: self.settings.offline,
        };
        match self.fetcher.fetch(&request, &mut sink, &Quiet) {
            Ok(_) => {}
            Err(FetchError::Failed(why)) => return Err(why),
            Err(FetchError::Cancelled) => {
                return Err(problem("fetch-failed", Class::Interrupted, "interrupted"));
            }
        }
        use std::io::Seek as _;
        let mut file = shown;
        file.rewind().map_err(|e| io("read", place, &e))?;
        Ok(file)
    }
}
