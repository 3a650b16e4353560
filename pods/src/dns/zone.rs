//! What the names of the cluster mean: a pure function of the Services and EndpointSlices.
//!
//! Follows Kubernetes' "DNS-Based Service Discovery" specification, version 1.1.0:
//!
//! ```text
//! <service>.<ns>.svc.<zone>                    A, AAAA: cluster addresses; headless: ready endpoints
//! _<port>._<protocol>.<service>.<ns>.svc.<zone> SRV
//! <hostname>.<service>.<ns>.svc.<zone>         A, AAAA of one endpoint of a headless Service
//! <a-b-c-d>.<ns>.pod.<zone>                    A, AAAA written in the name itself
//! dns-version.<zone>                           TXT
//! <d>.<c>.<b>.<a>.in-addr.arpa, ip6.arpa       PTR of a cluster address or an endpoint
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::store::Object;

/// Seconds that a client may keep an answer; short, since endpoints come and go.
const TTL: u32 = 5;
const SCHEMA_VERSION: &str = "1.1.0";

/// What the zone reads of the API; implemented over the store, and by tests.
pub(super) trait Records {
    fn has_namespace(&self, ns: &str) -> bool;
    fn service(&self, ns: &str, name: &str) -> Option<Arc<Object>>;
    /// The EndpointSlices of a Service.
    fn slices(&self, ns: &str, service: &str) -> Vec<Arc<Object>>;
    fn service_at(&self, address: IpAddr) -> Option<Arc<Object>>;
    /// The EndpointSlices that have `address`.
    fn slices_at(&self, address: IpAddr) -> Vec<Arc<Object>>;
}

/// An answer, or whose it is to answer.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// The name exists; no records means none of this type (NODATA).
    Found(Vec<Record>),
    /// The name is in the zone and does not exist (NXDOMAIN).
    NoSuchName,
    /// The name is not the cluster's: ask the servers of the machine.
    Foreign,
}

/// The cluster's domain, e.g. `cluster.local`.
#[derive(Debug, Clone)]
pub(super) struct Zone {
    origin: Name,
    labels: Vec<String>,
}

/// One address of a Service's endpoints, with the label that names it.
struct Endpoint {
    address: IpAddr,
    hostname: String,
}

impl Zone {
    /// # Errors
    ///
    /// Where `domain` is not a domain name.
    pub fn new(domain: &str) -> Result<Self, String> {
        let text = format!("{}.", domain.trim_matches('.').to_ascii_lowercase());
        let origin =
            Name::from_ascii(&text).map_err(|e| format!("cluster domain {domain:?}: {e}"))?;
        Ok(Self {
            labels: labels(&origin),
            origin,
        })
    }

    /// The SOA that goes with every negative answer (RFC 2308).
    pub fn soa(&self) -> Record {
        let at = |host: &str| Name::from_ascii(host).and_then(|n| n.append_domain(&self.origin));
        let (server, mailbox) = (at("ns.dns"), at("hostmaster"));
        let soa = SOA::new(
            server.unwrap_or_else(|_| self.origin.clone()),
            mailbox.unwrap_or_else(|_| self.origin.clone()),
            1,
            7200,
            1800,
            86400,
            TTL,
        );
        Record::from_rdata(self.origin.clone(), TTL, RData::SOA(soa))
    }

    /// Answers one question.
    pub fn answer(&self, name: &Name, kind: RecordType, records: &impl Records) -> Answer {
        let asked = labels(name);
        if let Some(address) = reverse(&asked) {
            return self.pointer(name, kind, address, records);
        }
        let Some(inner) = asked.strip_suffix(self.labels.as_slice()) else {
            return Answer::Foreign;
        };
        let inner: Vec<&str> = inner.iter().map(String::as_str).collect();
        match inner.as_slice() {
            [] if kind == RecordType::SOA => Answer::Found(vec![self.soa()]),
            [] | ["svc" | "pod"] => Answer::Found(Vec::new()),
            ["dns-version"] => found(
                name,
                kind,
                [RData::TXT(TXT::new(vec![SCHEMA_VERSION.into()]))],
            ),
            [ns, "svc" | "pod"] if records.has_namespace(ns) => Answer::Found(Vec::new()),
            [address, ns, "pod"] if records.has_namespace(ns) => dashed(address)
                .map_or(Answer::NoSuchName, |address| {
                    found(name, kind, [address_data(address)])
                }),
            [service, ns, "svc"] => by_service(name, kind, ns, service, records),
            [port, protocol, service, ns, "svc"] if port.starts_with('_') => {
                self.ports(name, kind, (port, protocol), ns, service, records)
            }
            [hostname, service, ns, "svc"] => endpoint(name, kind, hostname, ns, service, records),
            _ => Answer::NoSuchName,
        }
    }

    fn ports(
        &self,
        name: &Name,
        kind: RecordType,
        (port, protocol): (&str, &str),
        ns: &str,
        service: &str,
        records: &impl Records,
    ) -> Answer {
        let Some(object) = records.service(ns, service) else {
            return Answer::NoSuchName;
        };
        let Some(protocol) = protocol.strip_prefix('_') else {
            return Answer::NoSuchName;
        };
        let wanted = port.trim_start_matches('_');
        let fits = |p: &serde_json::Value| {
            p["name"].as_str().unwrap_or_default() == wanted
                && p["protocol"]
                    .as_str()
                    .unwrap_or("TCP")
                    .eq_ignore_ascii_case(protocol)
        };
        let base = format!("{service}.{ns}.svc.{}", self.origin);
        let mut data = Vec::new();
        if is_headless(&object) {
            for slice in records.slices(ns, service) {
                let ports = slice.at("/ports").as_array().cloned().unwrap_or_default();
                for number in ports
                    .iter()
                    .filter(|p| fits(p))
                    .filter_map(|p| p["port"].as_u64())
                {
                    for endpoint in endpoints(std::slice::from_ref(&slice)) {
                        data.extend(srv(number, &format!("{}.{base}", endpoint.hostname)));
                    }
                }
            }
        } else {
            let ports = object
                .at("/spec/ports")
                .as_array()
                .cloned()
                .unwrap_or_default();
            let numbers = ports
                .iter()
                .filter(|p| fits(p))
                .filter_map(|p| p["port"].as_u64());
            data.extend(numbers.filter_map(|number| srv(number, &base)));
        }
        if data.is_empty() {
            Answer::NoSuchName
        } else {
            found(name, kind, data)
        }
    }

    fn pointer(
        &self,
        name: &Name,
        kind: RecordType,
        address: IpAddr,
        records: &impl Records,
    ) -> Answer {
        let mut targets = Vec::new();
        if let Some(service) = records.service_at(address) {
            targets.push(format!("{}.{}", service.name(), service.namespace()));
        }
        for slice in records.slices_at(address) {
            let Some(service) = slice.label("kubernetes.io/service-name") else {
                continue;
            };
            let ours = endpoints(std::slice::from_ref(&slice));
            for endpoint in ours.iter().filter(|e| e.address == address) {
                let ns = slice.namespace();
                if records
                    .service(ns, service)
                    .is_some_and(|s| is_headless(&s))
                {
                    targets.push(format!("{}.{service}.{ns}", endpoint.hostname));
                }
            }
        }
        if targets.is_empty() {
            return Answer::Foreign;
        }
        let names = targets
            .iter()
            .filter_map(|t| Name::from_ascii(format!("{t}.svc.{}", self.origin)).ok());
        found(name, kind, names.map(|n| RData::PTR(PTR(n))))
    }
}

/// The addresses of a Service, of its endpoints where it is headless, or its external name.
fn by_service(
    name: &Name,
    kind: RecordType,
    ns: &str,
    service: &str,
    records: &impl Records,
) -> Answer {
    let Some(object) = records.service(ns, service) else {
        return Answer::NoSuchName;
    };
    if object.str_at("/spec/type") == "ExternalName" {
        return match Name::from_ascii(object.str_at("/spec/externalName")) {
            Ok(target) => Answer::Found(vec![record(name, RData::CNAME(CNAME(absolute(target))))]),
            Err(_) => Answer::NoSuchName,
        };
    }
    if is_headless(&object) {
        let endpoints = endpoints(&records.slices(ns, service));
        // A headless Service without ready endpoints is NXDOMAIN in CoreDNS as well.
        if endpoints.is_empty() {
            return Answer::NoSuchName;
        }
        return found(
            name,
            kind,
            endpoints.iter().map(|e| address_data(e.address)),
        );
    }
    found(name, kind, cluster_addresses(&object).map(address_data))
}

/// One endpoint of a headless Service, by its hostname or its dashed address.
fn endpoint(
    name: &Name,
    kind: RecordType,
    hostname: &str,
    ns: &str,
    service: &str,
    records: &impl Records,
) -> Answer {
    if !records
        .service(ns, service)
        .is_some_and(|s| is_headless(&s))
    {
        return Answer::NoSuchName;
    }
    let endpoints = endpoints(&records.slices(ns, service));
    let mut fitting = endpoints
        .iter()
        .filter(|e| e.hostname.eq_ignore_ascii_case(hostname))
        .peekable();
    if fitting.peek().is_none() {
        return Answer::NoSuchName;
    }
    found(name, kind, fitting.map(|e| address_data(e.address)))
}

/// The ready endpoints of some slices (`publishNotReadyAddresses` shows as ready there).
fn endpoints(slices: &[Arc<Object>]) -> Vec<Endpoint> {
    let mut found = Vec::new();
    for slice in slices {
        for endpoint in slice.at("/endpoints").as_array().into_iter().flatten() {
            if endpoint["conditions"]["ready"] == serde_json::json!(false) {
                continue;
            }
            for text in endpoint["addresses"].as_array().into_iter().flatten() {
                let Some(address) = text.as_str().and_then(|a| a.parse().ok()) else {
                    continue;
                };
                let hostname = endpoint["hostname"].as_str().filter(|h| !h.is_empty());
                let hostname = hostname.map_or_else(|| dashes(address), str::to_owned);
                found.push(Endpoint { address, hostname });
            }
        }
    }
    found
}

fn is_headless(service: &Object) -> bool {
    service.str_at("/spec/clusterIP") == "None"
}

/// The addresses of a Service that has its own.
pub(super) fn cluster_addresses(service: &Object) -> impl Iterator<Item = IpAddr> {
    let listed = service.at("/spec/clusterIPs").as_array();
    let single = listed.is_none().then(|| service.str_at("/spec/clusterIP"));
    listed
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str())
        .chain(single)
        .filter_map(|a| a.parse().ok())
}

/// The records whose data is of the type that was asked for.
fn found(name: &Name, kind: RecordType, data: impl IntoIterator<Item = RData>) -> Answer {
    let wanted = |d: &RData| kind == RecordType::ANY || d.record_type() == kind;
    Answer::Found(
        data.into_iter()
            .filter(wanted)
            .map(|d| record(name, d))
            .collect(),
    )
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(a) => RData::A(A(a)),
        IpAddr::V6(a) => RData::AAAA(AAAA(a)),
    }
}

fn srv(port: u64, target: &str) -> Option<RData> {
    let port = u16::try_from(port).ok()?;
    Some(RData::SRV(SRV::new(
        0,
        100,
        port,
        Name::from_ascii(target).ok()?,
    )))
}

fn absolute(mut name: Name) -> Name {
    name.set_fqdn(true);
    name
}

/// `10.1.2.3` as `10-1-2-3`, the label of an address.
fn dashes(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// The address that a label of [`dashes`] stands for.
fn dashed(label: &str) -> Option<IpAddr> {
    let v4 = label
        .replace('-', ".")
        .parse::<Ipv4Addr>()
        .ok()
        .map(IpAddr::V4);
    v4.or_else(|| {
        label
            .replace('-', ":")
            .parse::<Ipv6Addr>()
            .ok()
            .map(IpAddr::V6)
    })
}

/// A name's labels in lower case, from left to right.
fn labels(name: &Name) -> Vec<String> {
    name.iter()
        .map(|l| String::from_utf8_lossy(l).to_ascii_lowercase())
        .collect()
}

/// The address that a name under `in-addr.arpa` (RFC 1035) or `ip6.arpa` (RFC 3596) stands for.
fn reverse(labels: &[String]) -> Option<IpAddr> {
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    match labels.as_slice() {
        [d, c, b, a, "in-addr", "arpa"] => format!("{a}.{b}.{c}.{d}").parse().ok(),
        [nibbles @ .., "ip6", "arpa"] if nibbles.len() == 32 => {
            let mut bits = 0u128;
            for nibble in nibbles.iter().rev() {
                let digit = u128::from_str_radix(nibble, 16)
                    .ok()
                    .filter(|_| nibble.len() == 1)?;
                bits = bits << 4 | digit;
            }
            Some(IpAddr::V6(Ipv6Addr::from_bits(bits)))
        }
        _ => None,
    }
}
