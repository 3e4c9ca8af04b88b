//! What is done again, and what is not: the event stream tells.

use std::time::{Duration, Instant};

use super::{Demo, digest};
use crate::support::process::children_of;
use crate::support::{Events, start};

/// What no test may see again once everything is there.
const NOWHERE: &str = "http://127.0.0.1:9/debian";

/// The builders that ran; none may have fetched anything.
fn started(events: &Events) -> Vec<&str> {
    assert_eq!(events.names("fetch.started"), Vec::<&str>::new());
    events.names("build.started")
}

/// The second build starts nothing and is quick.
pub(super) fn the_second_build_does_nothing(demo: &Demo) {
    let events = demo.world.events(&[".#image"]);
    assert_eq!(started(&events), Vec::<&str>::new());
    assert_eq!(
        (
            events.output(),
            &events.summary()["built"],
            &events.summary()["fetched"]
        ),
        (demo.image.clone(), &0.into(), &0.into())
    );
    // The events could leave something out; the kernel does not.
    let mut quiet = demo.world.command_of(&["build", "--no-link", ".#image"]);
    assert_eq!(
        children_of(start(&mut quiet)),
        0,
        "the second build has run a process"
    );
    let best = (0..5)
        .map(|_| {
            let begin = Instant::now();
            demo.world
                .sos(["build", "--no-link", ".#image"])
                .ok()
                .says(&["built 0"]);
            begin.elapsed()
        })
        .min();
    let limit = if cfg!(debug_assertions) {
        Duration::from_secs(2)
    } else {
        Duration::from_millis(100)
    };
    assert!(
        best.is_some_and(|b| b < limit),
        "the quickest of five took {best:?}"
    );
}

/// With a lock and one build there is no need for any network.
pub(super) fn locked_and_offline_builds_work(demo: &mut Demo) {
    demo.world.set("SOS_MIRRORS_DEBIAN", NOWHERE);
    demo.world.set("SOS_MIRRORS_DEBIAN_SECURITY", NOWHERE);
    for arguments in [
        &["--locked"][..],
        &["--offline"],
        &["--locked", "--offline"],
    ] {
        let path = demo
            .world
            .sos(["build", "--no-link", ".#image"].iter().chain(arguments))
            .ok()
            .stdout;
        assert_eq!(path.trim(), demo.image);
    }
}

/// One changed line of C: the program, the layer that holds it, the image that holds the layer.
pub(super) fn a_changed_line_rebuilds_the_program_and_its_layer(demo: &Demo) {
    demo.edit("\"Hello from %s\"", "\"Greetings from %s\"");
    let events = demo.world.events(&["--offline", ".#image"]);
    assert_eq!(
        started(&events),
        ["hello", "web-image", "web-image-layer-1"]
    );
    assert_ne!(digest(&demo.world, &events.output()), demo.digest());
    // And back: everything is there already.
    demo.edit("\"Greetings from %s\"", "\"Hello from %s\"");
    let events = demo.world.events(&["--offline", ".#image"]);
    assert_eq!(started(&events), Vec::<&str>::new());
    assert_eq!(events.output(), demo.image);
}

/// A changed comment: the compiler runs, its result is the same, and nothing follows.
pub(super) fn a_changed_comment_stops_after_the_compiler(demo: &Demo) {
    demo.edit(
        "/* Says what this host is",
        "/* Tells everybody what this host is",
    );
    let events = demo.world.events(&["--offline", ".#image"]);
    assert_eq!(started(&events), ["hello"]);
    assert_eq!(events.output(), demo.image);
}
