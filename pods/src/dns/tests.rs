use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use serde_json::{Value, json};

use super::zone::{Answer, Records, Zone, cluster_addresses};
use super::{Answers, Transport};
use crate::store::Object;

struct Fixed {
    services: Vec<Arc<Object>>,
    slices: Vec<Arc<Object>>,
}

impl Records for Fixed {
    fn has_namespace(&self, ns: &str) -> bool {
        ns == "default"
    }
    fn service(&self, ns: &str, name: &str) -> Option<Arc<Object>> {
        self.services
            .iter()
            .find(|s| s.namespace() == ns && s.name() == name)
            .cloned()
    }
    fn slices(&self, ns: &str, service: &str) -> Vec<Arc<Object>> {
        let of = |s: &&Arc<Object>| s.label("kubernetes.io/service-name") == Some(service);
        self.slices
            .iter()
            .filter(|s| s.namespace() == ns)
            .filter(of)
            .cloned()
            .collect()
    }
    fn service_at(&self, address: IpAddr) -> Option<Arc<Object>> {
        self.services
            .iter()
            .find(|s| cluster_addresses(s).any(|a| a == address))
            .cloned()
    }
    fn slices_at(&self, _: IpAddr) -> Vec<Arc<Object>> {
        self.slices.clone()
    }
}

fn service(name: &str, spec: &Value) -> Arc<Object> {
    let meta = json!({"name": name, "namespace": "default"});
    Object::from_value(1, json!({"metadata": meta, "spec": spec}))
}

fn cluster() -> Fixed {
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    let slice = json!({
        "metadata": {"name": "db-1", "namespace": "default",
                     "labels": {"kubernetes.io/service-name": "db"}},
        "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": ["10.88.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["10.88.0.6"], "conditions": {"ready": true}},
            {"addresses": ["10.88.0.7"], "conditions": {"ready": false}},
        ],
    });
    Fixed {
        services: vec![
            service(
                "web",
                &json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": ports}),
            ),
            service("db", &json!({"clusterIP": "None"})),
            service(
                "away",
                &json!({"type": "ExternalName", "externalName": "example.org"}),
            ),
        ],
        slices: vec![Object::from_value(1, slice)],
    }
}

/// The answer as text: the records' data, or what is said instead of them.
fn ask(name: &str, kind: RecordType) -> String {
    let zone = Zone::new("cluster.local").unwrap();
    match zone.answer(&Name::from_ascii(name).unwrap(), kind, &cluster()) {
        Answer::Foreign => "foreign".into(),
        Answer::NoSuchName => "no such name".into(),
        Answer::Found(records) => {
            let data = records.iter().map(|r| match &r.data {
                RData::TXT(_) => "text".into(),
                data => data.to_string(),
            });
            data.collect::<Vec<_>>().join(", ")
        }
    }
}

#[test]
fn a_service_has_its_cluster_address() {
    assert_eq!(
        ask("web.default.svc.cluster.local.", RecordType::A),
        "10.96.0.7"
    );
    assert_eq!(
        ask("WEB.Default.svc.cluster.local.", RecordType::A),
        "10.96.0.7"
    );
    assert_eq!(ask("web.default.svc.cluster.local.", RecordType::AAAA), "");
    assert_eq!(
        ask("nothing.default.svc.cluster.local.", RecordType::A),
        "no such name"
    );
    assert_eq!(
        ask("web.elsewhere.svc.cluster.local.", RecordType::A),
        "no such name"
    );
}

#[test]
fn a_headless_service_has_its_ready_endpoints() {
    assert_eq!(
        ask("db.default.svc.cluster.local.", RecordType::A),
        "10.88.0.5, 10.88.0.6"
    );
    assert_eq!(
        ask("db-0.db.default.svc.cluster.local.", RecordType::A),
        "10.88.0.5"
    );
    assert_eq!(
        ask("10-88-0-6.db.default.svc.cluster.local.", RecordType::A),
        "10.88.0.6"
    );
    assert_eq!(
        ask("db-9.db.default.svc.cluster.local.", RecordType::A),
        "no such name"
    );
    assert_eq!(
        ask("x.web.default.svc.cluster.local.", RecordType::A),
        "no such name"
    );
}

#[test]
fn ports_have_srv_records() {
    let web = ask("_http._tcp.web.default.svc.cluster.local.", RecordType::SRV);
    assert_eq!(web, "0 100 80 web.default.svc.cluster.local.");
    let db = ask("_sql._tcp.db.default.svc.cluster.local.", RecordType::SRV);
    assert!(
        db.contains("0 100 5432 db-0.db.default.svc.cluster.local."),
        "{db}"
    );
    assert!(
        db.contains("0 100 5432 10-88-0-6.db.default.svc.cluster.local."),
        "{db}"
    );
    assert_eq!(
        ask("_http._udp.web.default.svc.cluster.local.", RecordType::SRV),
        "no such name"
    );
}

#[test]
fn addresses_have_names() {
    assert_eq!(
        ask("7.0.96.10.in-addr.arpa.", RecordType::PTR),
        "web.default.svc.cluster.local."
    );
    assert_eq!(
        ask("5.0.88.10.in-addr.arpa.", RecordType::PTR),
        "db-0.db.default.svc.cluster.local."
    );
    assert_eq!(ask("1.1.1.1.in-addr.arpa.", RecordType::PTR), "foreign");
}

#[test]
fn pods_are_named_by_their_address() {
    assert_eq!(
        ask("10-88-0-9.default.pod.cluster.local.", RecordType::A),
        "10.88.0.9"
    );
    assert_eq!(
        ask("hello.default.pod.cluster.local.", RecordType::A),
        "no such name"
    );
    assert_eq!(
        ask("10-88-0-9.elsewhere.pod.cluster.local.", RecordType::A),
        "no such name"
    );
}

#[test]
fn other_names_are_somebody_elses() {
    assert_eq!(ask("example.org.", RecordType::A), "foreign");
    assert_eq!(ask("notcluster.local.", RecordType::A), "foreign");
    assert_eq!(
        ask("away.default.svc.cluster.local.", RecordType::A),
        "example.org."
    );
    assert_eq!(ask("default.svc.cluster.local.", RecordType::A), "");
    assert_eq!(ask("dns-version.cluster.local.", RecordType::TXT), "text");
}

fn answers() -> Answers<Fixed> {
    let zone = Zone::new("cluster.local").unwrap();
    Answers {
        zone,
        records: cluster(),
        resolv_conf: "/nonexistent".into(),
    }
}

async fn exchange(message: &[u8]) -> Option<Message> {
    let answer = answers().answer(message, Transport::Udp).await?;
    Some(Message::from_vec(&answer).unwrap())
}

fn question(name: &str) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message
}

#[tokio::test]
async fn a_missing_name_comes_with_the_soa() {
    let asked = question("no.default.svc.cluster.local.");
    let answer = exchange(&asked.to_vec().unwrap()).await.unwrap();
    assert_eq!(answer.metadata.id, asked.metadata.id);
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(answer.authorities.len(), 1);
}

#[tokio::test]
async fn no_server_to_ask_is_a_server_failure() {
    let answer = exchange(&question("example.org.").to_vec().unwrap())
        .await
        .unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn hostile_messages_are_refused_or_ignored() {
    assert!(exchange(&[]).await.is_none());
    assert!(exchange(&[1]).await.is_none());
    let broken = [0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0x0c];
    let answer = exchange(&broken).await.unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    // An answer must not be answered, or two servers talk for ever.
    let mut response = question("web.default.svc.cluster.local.");
    response.metadata.message_type = hickory_proto::op::MessageType::Response;
    assert!(exchange(&response.to_vec().unwrap()).await.is_none());
}

#[tokio::test]
async fn long_answers_are_truncated_in_datagrams() {
    let mut cluster = cluster();
    let endpoints: Vec<_> = (0..200)
        .map(|i| json!({"addresses": [format!("10.88.1.{i}")]}))
        .collect();
    cluster.slices = vec![Object::from_value(
        1,
        json!({"metadata": {"namespace": "default", "labels": {"kubernetes.io/service-name": "db"}},
               "endpoints": endpoints}),
    )];
    let answers = Answers {
        records: cluster,
        ..answers()
    };
    let query = question("db.default.svc.cluster.local.").to_vec().unwrap();
    let datagram = answers.answer(&query, Transport::Udp).await.unwrap();
    assert!(datagram.len() <= 512);
    assert!(Message::from_vec(&datagram).unwrap().metadata.truncation);
    let stream = answers.answer(&query, Transport::Tcp).await.unwrap();
    assert_eq!(Message::from_vec(&stream).unwrap().answers.len(), 200);
}
