//! A pod.

use serde_json::Value;

use super::{Page, pairs, shown, text, when};

/// Adds the pod's lines.
pub fn describe(page: &mut Page, pod: &Value) {
    overview(page, pod);
    let status = &pod["status"];
    for (title, spec, state) in [
        ("Init Containers", "initContainers", "initContainerStatuses"),
        ("Containers", "containers", "containerStatuses"),
        (
            "Ephemeral Containers",
            "ephemeralContainers",
            "ephemeralContainerStatuses",
        ),
    ] {
        let list = pod["spec"][spec].as_array();
        if list.is_none_or(Vec::is_empty) {
            continue;
        }
        page.line(0, &format!("{title}:"));
        for container in list.into_iter().flatten() {
            let states = status[state].as_array();
            let state = states
                .into_iter()
                .flatten()
                .find(|s| s["name"] == container["name"]);
            describe_container(page, container, state.unwrap_or(&Value::Null));
        }
    }
    conditions(page, &status["conditions"]);
    volumes(page, &pod["spec"]["volumes"]);
    page.field(0, "QoS Class", shown(&status["qosClass"]));
    page.list(
        0,
        "Node-Selectors",
        &pairs(&pod["spec"]["nodeSelector"], "="),
    );
    page.list(0, "Tolerations", &tolerations(&pod["spec"]["tolerations"]));
}

fn overview(page: &mut Page, pod: &Value) {
    let (meta, spec, status) = (&pod["metadata"], &pod["spec"], &pod["status"]);
    page.field(
        0,
        "Priority",
        spec["priority"].as_i64().unwrap_or(0).to_string(),
    );
    let account = text(spec, "/serviceAccountName");
    page.field(
        0,
        "Service Account",
        if account.is_empty() {
            "default"
        } else {
            account
        },
    );
    let node = match (text(spec, "/nodeName"), text(status, "/hostIP")) {
        ("", _) => "<none>".to_owned(),
        (name, ip) => format!("{name}/{ip}"),
    };
    page.field(0, "Node", node);
    if let Some(time) = status["startTime"].as_str() {
        page.field(0, "Start Time", when(time));
    }
    page.list(0, "Labels", &pairs(&meta["labels"], "="));
    page.list(0, "Annotations", &pairs(&meta["annotations"], ": "));
    if let Some(time) = meta["deletionTimestamp"].as_str() {
        page.field(
            0,
            "Status",
            format!("Terminating (lasts {})", super::ago(Some(time))),
        );
        let grace = meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        page.field(0, "Termination Grace Period", format!("{grace}s"));
    } else {
        page.field(0, "Status", shown(&status["phase"]));
    }
    for (name, key) in [("Reason", "reason"), ("Message", "message")] {
        if !status[key].is_null() {
            page.field(0, name, shown(&status[key]));
        }
    }
    page.field(0, "IP", text(status, "/podIP"));
    page.line(0, "IPs:");
    for ip in status["podIPs"].as_array().into_iter().flatten() {
        page.field(2, "IP", text(ip, "/ip"));
    }
    let owners = meta["ownerReferences"].as_array().into_iter().flatten();
    if let Some(owner) = owners.into_iter().find(|o| o["controller"] == true) {
        let name = format!("{}/{}", text(owner, "/kind"), text(owner, "/name"));
        page.field(0, "Controlled By", name);
    }
}

fn describe_container(page: &mut Page, container: &Value, status: &Value) {
    page.line(2, &format!("{}:", text(container, "/name")));
    page.field(4, "Container ID", text(status, "/containerID"));
    page.field(4, "Image", text(container, "/image"));
    page.field(4, "Image ID", text(status, "/imageID"));
    let ports = |key: &str| {
        let all = container["ports"].as_array().into_iter().flatten();
        let all: Vec<String> = all
            .map(|p| format!("{}/{}", p[key].as_i64().unwrap_or(0), text(p, "/protocol")))
            .collect();
        if all.is_empty() {
            "<none>".to_owned()
        } else {
            all.join(", ")
        }
    };
    page.field(4, "Ports", ports("containerPort"));
    page.field(4, "Host Ports", ports("hostPort"));
    for (name, key) in [("Command", "command"), ("Args", "args")] {
        if let Some(list) = container[key].as_array() {
            page.line(4, &format!("{name}:"));
            for word in list {
                page.line(6, word.as_str().unwrap_or_default());
            }
        }
    }
    state(page, "State", &status["state"]);
    if status["lastState"]
        .as_object()
        .is_some_and(|s| !s.is_empty())
    {
        state(page, "Last State", &status["lastState"]);
    }
    let ready = status["ready"] == true;
    page.field(4, "Ready", if ready { "True" } else { "False" });
    page.field(
        4,
        "Restart Count",
        status["restartCount"].as_i64().unwrap_or(0).to_string(),
    );
    for (name, key) in [("Limits", "limits"), ("Requests", "requests")] {
        if let Some(map) = container["resources"][key]
            .as_object()
            .filter(|m| !m.is_empty())
        {
            page.line(4, &format!("{name}:"));
            for (resource, amount) in map {
                page.field(6, resource, shown(amount));
            }
        }
    }
    for (name, key) in [
        ("Liveness", "livenessProbe"),
        ("Readiness", "readinessProbe"),
        ("Startup", "startupProbe"),
    ] {
        if !container[key].is_null() {
            page.field(4, name, probe(&container[key]));
        }
    }
    environment(page, container);
    mounts(page, &container["volumeMounts"]);
}

fn state(page: &mut Page, title: &str, state: &Value) {
    if let Some(running) = state.get("running").filter(|r| !r.is_null()) {
        page.field(4, title, "Running");
        page.field(6, "Started", when(text(running, "/startedAt")));
    } else if let Some(over) = state.get("terminated").filter(|r| !r.is_null()) {
        page.field(4, title, "Terminated");
        page.field(6, "Reason", shown(&over["reason"]));
        if let Some(message) = over["message"].as_str() {
            page.field(6, "Message", message.trim_end());
        }
        page.field(6, "Exit Code", over["exitCode"].to_string());
        if let Some(signal) = over["signal"].as_i64().filter(|s| *s > 0) {
            page.field(6, "Signal", signal.to_string());
        }
        page.field(6, "Started", when(text(over, "/startedAt")));
        page.field(6, "Finished", when(text(over, "/finishedAt")));
    } else {
        page.field(4, title, "Waiting");
        let waiting = &state["waiting"];
        if !waiting["reason"].is_null() {
            page.field(6, "Reason", shown(&waiting["reason"]));
        }
        if !waiting["message"].is_null() {
            page.field(6, "Message", shown(&waiting["message"]));
        }
    }
}

fn probe(probe: &Value) -> String {
    let what = if let Some(command) = probe["exec"]["command"].as_array() {
        let words: Vec<&str> = command.iter().filter_map(Value::as_str).collect();
        format!("exec [{}]", words.join(" "))
    } else if !probe["httpGet"].is_null() {
        let get = &probe["httpGet"];
        let scheme = text(get, "/scheme").to_lowercase();
        let scheme = if scheme.is_empty() {
            "http".to_owned()
        } else {
            scheme
        };
        format!(
            "http-get {scheme}://{}:{}{}",
            text(get, "/host"),
            shown(&get["port"]),
            text(get, "/path")
        )
    } else if !probe["tcpSocket"].is_null() {
        format!(
            "tcp-socket {}:{}",
            text(probe, "/tcpSocket/host"),
            shown(&probe["tcpSocket"]["port"])
        )
    } else {
        format!("grpc <pod>:{}", shown(&probe["grpc"]["port"]))
    };
    let number = |key: &str, default: i64| probe[key].as_i64().unwrap_or(default);
    format!(
        "{what} delay={}s timeout={}s period={}s #success={} #failure={}",
        number("initialDelaySeconds", 0),
        number("timeoutSeconds", 1),
        number("periodSeconds", 10),
        number("successThreshold", 1),
        number("failureThreshold", 3)
    )
}

fn environment(page: &mut Page, container: &Value) {
    for from in container["envFrom"].as_array().into_iter().flatten() {
        let (kind, source) = match &from["configMapRef"] {
            Value::Null => ("Secret", &from["secretRef"]),
            source => ("ConfigMap", source),
        };
        let optional = source["optional"] == true;
        page.line(4, "Environment Variables from:");
        page.line(
            6,
            &format!("{}  {kind}  Optional: {optional}", text(source, "/name")),
        );
    }
    let all = container["env"].as_array();
    if all.is_none_or(Vec::is_empty) {
        page.field(4, "Environment", "<none>");
        return;
    }
    page.line(4, "Environment:");
    for variable in all.into_iter().flatten() {
        let source = &variable["valueFrom"];
        let key = |source: &Value, kind: &str| {
            format!(
                "<set to the key '{}' in {kind} '{}'>",
                text(source, "/key"),
                text(source, "/name")
            )
        };
        let value = if !source["secretKeyRef"].is_null() {
            key(&source["secretKeyRef"], "secret")
        } else if !source["configMapKeyRef"].is_null() {
            key(&source["configMapKeyRef"], "the key of config map")
        } else if !source["fieldRef"].is_null() {
            format!("(v1:{})", text(source, "/fieldRef/fieldPath"))
        } else if !source["resourceFieldRef"].is_null() {
            format!("({})", text(source, "/resourceFieldRef/resource"))
        } else {
            text(variable, "/value").to_owned()
        };
        page.field(6, text(variable, "/name"), value);
    }
}

fn mounts(page: &mut Page, mounts: &Value) {
    let all = mounts.as_array();
    if all.is_none_or(Vec::is_empty) {
        page.field(4, "Mounts", "<none>");
        return;
    }
    page.line(4, "Mounts:");
    for mount in all.into_iter().flatten() {
        let mode = if mount["readOnly"] == true {
            "ro"
        } else {
            "rw"
        };
        let sub = match text(mount, "/subPath") {
            "" => String::new(),
            path => format!(",path=\"{path}\""),
        };
        page.line(
            6,
            &format!(
                "{} from {} ({mode}{sub})",
                text(mount, "/mountPath"),
                text(mount, "/name")
            ),
        );
    }
}

fn conditions(page: &mut Page, conditions: &Value) {
    let all = conditions.as_array().into_iter().flatten();
    page.line(0, "Conditions:");
    let mut rows = vec![vec!["Type".to_owned(), "Status".to_owned()]];
    rows.extend(all.map(|c| vec![text(c, "/type").to_owned(), text(c, "/status").to_owned()]));
    for line in super::columns(&rows).lines() {
        page.line(2, line);
    }
}

fn volumes(page: &mut Page, volumes: &Value) {
    let all = volumes.as_array();
    if all.is_none_or(Vec::is_empty) {
        page.field(0, "Volumes", "<none>");
        return;
    }
    page.line(0, "Volumes:");
    for volume in all.into_iter().flatten() {
        page.line(2, &format!("{}:", text(volume, "/name")));
        let map = volume.as_object().into_iter().flatten();
        for (kind, source) in map.filter(|(key, _)| *key != "name") {
            page.field(4, "Type", kind);
            for (key, value) in source.as_object().into_iter().flatten() {
                page.field(4, key, shown(value));
            }
        }
    }
}

fn tolerations(tolerations: &Value) -> Vec<String> {
    let all = tolerations.as_array().into_iter().flatten();
    all.map(|t| {
        let mut out = text(t, "/key").to_owned();
        if !text(t, "/value").is_empty() {
            out.push_str(&format!("={}", text(t, "/value")));
        }
        if !text(t, "/effect").is_empty() {
            out.push_str(&format!(":{}", text(t, "/effect")));
        }
        if t["operator"] == "Exists" {
            out.push_str(" op=Exists");
        }
        if let Some(seconds) = t["tolerationSeconds"].as_i64() {
            out.push_str(&format!(" for {seconds}s"));
        }
        out
    })
    .collect()
}
