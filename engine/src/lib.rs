//! The build engine: graph, scheduler, sandbox, events.
