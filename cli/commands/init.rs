//! `sos init`: makes a small working project.

use std::io::Write as _;
use std::path::PathBuf;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_recipes::templates::{self, TEMPLATES};

use crate::failure::Failure;
use crate::render::output;

/// Make a small working project
#[derive(Debug, clap::Args)]
pub(crate) struct InitArgs {
    /// Where; made when it is not there
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// What kind
    #[arg(long, value_name = "NAME", default_value = "debian", value_parser = clap::builder::PossibleValuesParser::new(TEMPLATES.iter().map(|t| t.name)))]
    template: String,
}

/// Runs the verb. Nothing that is there is overwritten.
///
/// # Errors
/// `init-exists` when a file of the template is there already.
pub(crate) fn run(args: &InitArgs) -> Result<(), Failure> {
    let Some(template) = templates::find(&args.template) else {
        return Err(Failure::new(Diagnostic::error(
            "init-no-template",
            Class::Usage,
            format!("there is no template `{}`", args.template),
        )));
    };
    let taken: Vec<_> = template
        .files
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| args.dir.join(name).exists())
        .collect();
    if !taken.is_empty() {
        return Err(Failure::new(
            Diagnostic::error(
                "init-exists",
                Class::Other,
                format!(
                    "`{}` already holds `{}`",
                    args.dir.display(),
                    taken.join("`, `")
                ),
            )
            .help("name another directory: `sos init DIR`"),
        ));
    }
    for (name, text) in template.files {
        let path = args.dir.join(name);
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(path.parent().unwrap_or(&args.dir))?;
            std::fs::File::create_new(&path)?.write_all(text.as_bytes())
        };
        write().map_err(|e| Failure::io(&format!("cannot write `{}`", path.display()), &e))?;
        output::line(&path.display().to_string())?;
    }
    let place = if args.dir.as_os_str() == "." {
        String::new()
    } else {
        format!(" {}", args.dir.display())
    };
    output::message(&format!(
        "made {}; build it with `sos build{place}`",
        template.about
    ));
    Ok(())
}
