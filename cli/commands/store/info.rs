//! `sos store info`: what is known of an object, and how it came to be here.

use sos_store::{ObjectKind, PathInfo, Store};

use super::place::locate;
use crate::failure::Failure;
use crate::render::{output, size};
use crate::session::Session;

/// The word for what an object is.
pub(crate) fn kind(info: &PathInfo) -> &'static str {
    match info.kind {
        ObjectKind::Tree => "tree",
        ObjectKind::Rootfs => "rootfs",
    }
}

pub(super) fn describe(store: &Store, info: &PathInfo) -> serde_json::Value {
    let dir = store.store_dir();
    serde_json::json!({
        "path": info.path.absolute(dir),
        "kind": kind(info),
        "narHash": info.nar_sha256.map(|h| format!("sha256:{h}")),
        "size": info.nar_size,
        "tree": info.tree_id().map(|id| format!("blake3:{id}")),
        "rootfs": info.root.map(|r| format!("blake3:{r}")),
        "references": info.references.iter().map(|r| r.absolute(dir)).collect::<Vec<_>>(),
        "deriver": info.deriver.as_ref().map(|d| d.absolute(dir)),
        "ca": info.ca,
        "physical": (info.kind == ObjectKind::Tree).then(|| store.physical(&info.path)),
    })
}

/// How an object came to be here: every build that gave it, what came out when it was built again, and other results of the
/// same derivation.
fn history(store: &Store, info: &PathInfo, value: &mut serde_json::Value) -> Result<(), Failure> {
    let dir = store.store_dir();
    let traces = store.traces_of(&info.path)?;
    let time = |secs: i64| sos_engine::rfc3339(u64::try_from(secs).unwrap_or(0) * 1000);
    let built = |trace: &sos_store::Trace| {
        serde_json::json!({
            "drv": trace.drv.absolute(dir), "output": trace.output, "builder": trace.builder, "host": trace.host,
            "started": time(trace.started_secs), "durationMs": trace.duration_ms,
            "log": trace.log.as_ref().map(|log| log.absolute(dir)),
        })
    };
    let mut others = Vec::new();
    let mut keys: Vec<&[u8; 32]> = Vec::new();
    for record in &traces {
        if keys.contains(&&record.trace.key) {
            continue;
        }
        keys.push(&record.trace.key);
        for other in store.traces_of_key(&record.trace.key)? {
            if other.trace.output == record.trace.output && other.trace.path != info.path {
                let mut value = built(&other.trace);
                value["path"] = other.trace.path.absolute(dir).into();
                others.push(value);
            }
        }
    }
    let rebuilds: Vec<serde_json::Value> = store
        .rebuilds_of(&info.path)?
        .into_iter()
        .map(|record| {
            let one = record.rebuild;
            serde_json::json!({
                "same": one.same, "found": one.found, "varied": one.conditions, "host": one.host,
                "started": time(one.started_secs), "durationMs": one.duration_ms,
            })
        })
        .collect();
    value["builds"] = traces.iter().map(|record| built(&record.trace)).collect();
    value["rebuilds"] = rebuilds.into();
    value["otherResults"] = others.into();
    Ok(())
}

/// The history of an object, a line each.
fn history_lines(value: &serde_json::Value) -> String {
    let mut text = String::new();
    let list = |key: &str| value[key].as_array().cloned().unwrap_or_default();
    let word = |one: &serde_json::Value, key: &str| one[key].as_str().unwrap_or("?").to_owned();
    for one in list("builds") {
        let (at, host) = (word(&one, "started"), word(&one, "host"));
        text.push_str(&format!(
            "{:<12} {at} on {host} by {}, {} ms\n",
            "built",
            word(&one, "builder"),
            one["durationMs"]
        ));
    }
    for one in list("rebuilds") {
        let same = if one["same"] == true {
            "equal".to_owned()
        } else {
            format!("DIFFERENT: {}", word(&one, "found"))
        };
        let (at, host) = (word(&one, "started"), word(&one, "host"));
        text.push_str(&format!(
            "{:<12} {at} on {host}, varied {}: {same}\n",
            "built again",
            word(&one, "varied")
        ));
    }
    for one in list("otherResults") {
        text.push_str(&format!(
            "{:<12} {} of {}: the same derivation gave something else\n",
            "other result",
            word(&one, "path"),
            word(&one, "started")
        ));
    }
    text
}

pub(super) fn info(
    session: &Session,
    paths: &[String],
    closure: bool,
    physical: bool,
    only_size: bool,
) -> Result<(), Failure> {
    let store = session.store()?;
    let mut all = Vec::new();
    for text in paths {
        let (info, _) = locate(store, text)?;
        if physical {
            output::line(&store.physical(&info.path).display().to_string())?;
            continue;
        }
        if only_size {
            output::line(&size::bytes(info.nar_size))?;
            continue;
        }
        let mut value = describe(store, &info);
        history(store, &info, &mut value)?;
        if closure {
            let members = store.closure(std::slice::from_ref(&info.path))?;
            let mut total = 0;
            for member in &members {
                total += store.query(member)?.map_or(0, |i| i.nar_size);
            }
            value["closureSize"] = total.into();
        }
        all.push(value);
    }
    if physical || only_size {
        return Ok(());
    }
    if session.global.json {
        return output::json(&serde_json::json!(all));
    }
    let mut text = String::new();
    for value in &all {
        for (key, value) in value.as_object().into_iter().flatten().filter(|(k, v)| {
            !v.is_null() && !["builds", "rebuilds", "otherResults"].contains(&k.as_str())
        }) {
            let shown = match value {
                serde_json::Value::String(s) => s.clone(),
                serde_json::Value::Array(list) => list
                    .iter()
                    .filter_map(|v| v.as_str())
                    .collect::<Vec<_>>()
                    .join("\n             "),
                serde_json::Value::Number(n) => {
                    n.as_u64().map_or_else(|| n.to_string(), size::bytes)
                }
                other => other.to_string(),
            };
            text.push_str(&format!("{key:<12} {shown}\n"));
        }
        text.push_str(&history_lines(value));
        text.push('\n');
    }
    output::bytes(text.trim_end_matches('\n').as_bytes())?;
    output::line("")
}
