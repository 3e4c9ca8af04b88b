//! Hosts of package archives are resolved through configuration; none may be written into the tree.

use std::path::Path;
use std::process::Command;

#[test]
fn no_host_of_a_package_archive_is_written_down() {
    // Put together here, so that this file passes its own test.
    let hosts = [
        ["deb", "debian", "org"].join("."),
        ["security", "debian", "org"].join("."),
        ["snapshot", "debian", "org"].join("."),
        ["ftp", "debian", "org"].join("."),
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root)
        .output()
        .expect("git runs");
    let listed = String::from_utf8_lossy(&out.stdout).into_owned();
    let files: Vec<&str> = listed.split('\0').filter(|f| !f.is_empty()).collect();
    assert!(!files.is_empty(), "git lists the files of the tree");
    for file in files {
        let Ok(bytes) = std::fs::read(root.join(file)) else {
            continue;
        };
        let text = String::from_utf8_lossy(&bytes);
        for host in &hosts {
            assert!(!text.contains(host.as_str()), "`{file}` names `{host}`");
        }
    }
}
