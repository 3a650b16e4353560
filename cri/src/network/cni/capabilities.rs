//! What a pod's request gives the plugins' capabilities (the conventions of the CNI project).

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use super::super::PodNetRequest;

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// Bits that may pass at once above the rate, as the peers give it: the most that the plugin
/// takes.
const BURST: u64 = 0x7fff_ffff * 8;

/// Values by capability name.
pub fn capabilities(request: &PodNetRequest) -> Result<Map<String, Value>> {
    let mut all = Map::new();
    let ports: Vec<_> = request
        .port_mappings
        .iter()
        .filter(|mapping| mapping.host_port != 0)
        .map(|mapping| {
            json!({
                "hostPort": mapping.host_port,
                "containerPort": mapping.container_port,
                "protocol": mapping.protocol().as_str_name().to_ascii_lowercase(),
                "hostIP": mapping.host_ip,
            })
        })
        .collect();
    if !ports.is_empty() {
        all.insert("portMappings".into(), Value::Array(ports));
    }
    all.extend(bandwidth(request)?.map(|value| ("bandwidth".to_owned(), value)));
    let dns = &request.dns;
    if !(dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty()) {
        let value = json!({
            "servers": dns.servers, "searches": dns.searches, "options": dns.options,
        });
        all.insert("dns".into(), value);
    }
    if !request.annotations.is_empty() {
        all.insert(
            "io.kubernetes.cri.pod-annotations".into(),
            json!(request.annotations),
        );
    }
    if !request.cgroup_parent.is_empty() {
        all.insert("cgroupPath".into(), json!(request.cgroup_parent));
    }
    Ok(all)
}

fn bandwidth(request: &PodNetRequest) -> Result<Option<Value>> {
    let mut value = Map::new();
    for (annotation, direction) in [(INGRESS, "ingress"), (EGRESS, "egress")] {
        if let Some(quantity) = request.annotations.get(annotation) {
            let rate = bits_a_second(quantity)
                .with_context(|| format!("annotation {annotation}: {quantity:?}"))?;
            value.insert(format!("{direction}Rate"), json!(rate));
            value.insert(format!("{direction}Burst"), json!(BURST));
        }
    }
    Ok((!value.is_empty()).then_some(Value::Object(value)))
}

/// A Kubernetes quantity in whole bits a second, from 1 kbit to 1 Pbit as the kubelet allows.
fn bits_a_second(quantity: &str) -> Result<u64> {
    let digits = quantity.len()
        - quantity
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .len();
    let (number, unit) = quantity.split_at(digits);
    let number: u64 = number.parse().context("expected a whole number, as 10M")?;
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1000,
        "M" => 1000_u64.pow(2),
        "G" => 1000_u64.pow(3),
        "T" => 1000_u64.pow(4),
        "P" => 1000_u64.pow(5),
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        other => bail!("unknown unit {other:?}: expected k, M, G, T, P, Ki, Mi, Gi or Ti"),
    };
    let rate = number.checked_mul(factor).context("it is too large")?;
    let (least, most) = (1000, 1000_u64.pow(5));
    ensure!(
        (least..=most).contains(&rate),
        "{rate} bits a second: expected 1k to 1P"
    );
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use rrun_cri_api::v1;

    use super::*;

    #[test]
    fn a_request_is_told_in_the_conventions_words() {
        let mapping = |host_port| v1::PortMapping {
            protocol: v1::Protocol::Udp.into(),
            container_port: 53,
            host_port,
            host_ip: "127.0.0.1".into(),
        };
        let request = PodNetRequest {
            port_mappings: vec![mapping(0), mapping(5353)],
            annotations: [(INGRESS.to_owned(), "10M".to_owned())].into(),
            cgroup_parent: "/pods/a".into(),
            ..PodNetRequest::default()
        };
        let all = capabilities(&request).unwrap();
        let port = json!({
            "hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1",
        });
        assert_eq!(all["portMappings"], json!([port]));
        assert_eq!(all["bandwidth"]["ingressRate"], 10_000_000);
        assert_eq!(all["bandwidth"].get("egressRate"), None);
        assert_eq!(all["cgroupPath"], "/pods/a");
        assert!(!all.contains_key("dns"));
    }

    #[test]
    fn an_empty_request_gives_nothing() {
        assert!(capabilities(&PodNetRequest::default()).unwrap().is_empty());
    }

    #[test]
    fn quantities_are_bits() {
        assert_eq!(bits_a_second("1Mi").unwrap(), 1 << 20);
        for wrong in ["", "M", "10X", "1", "1.5M", "99999999999999999999", "9999P"] {
            assert!(bits_a_second(wrong).is_err(), "{wrong}");
        }
    }
}
