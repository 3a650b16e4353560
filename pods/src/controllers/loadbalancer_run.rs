//! Gives Services of type LoadBalancer the node's address.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use serde_json::{Value, json};

use super::drive::{Controller, Key, Mapper, itself};
use super::loadbalancer::{Given, Taken, Told, give, listening, node_addresses, wants};
use crate::api::{Client, Res, Status, kinds};
use crate::events::{Recorder, reference};
use crate::store::{Object, Selector};

/// How often the machine's own sockets are looked at, while there is a balancer.
const PERIOD: Duration = Duration::from_secs(30);

/// See the module.
pub struct LoadBalancers {
    client: Client,
    events: Recorder,
    reserved: Vec<u16>,
    told: Mutex<Told>,
}

impl LoadBalancers {
    /// A controller that writes through `client`, and never gives a port of `reserved` away.
    pub fn new(client: &Client, events: &Recorder, reserved: &[u16]) -> Self {
        Self {
            client: client.named("service-lb-controller"),
            events: events.of("service-lb-controller"),
            reserved: reserved.to_vec(),
            told: Mutex::default(),
        }
    }

    fn given(&self, service: &Service) -> Result<Given, Status> {
        if !wants(service) {
            return Ok(Given::NotOurs);
        }
        let all = Selector::all();
        let services: Vec<Service> = self.client.list_as("", &all)?;
        let pods: Vec<Pod> = self.client.list_as("", &all)?;
        let nodes: Vec<Node> = self.client.list_as("", &all)?;
        let taken = Taken {
            listening: listening(),
            reserved: self.reserved.clone(),
        };
        let nodes = node_addresses(&nodes);
        Ok(give(service, &services, &pods, &nodes, &taken))
    }

    /// Tells why a Service waits, once for each reason.
    fn tell(&self, object: &Object, why: Option<&str>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(why) = why else {
            told.remove(object.uid());
            return;
        };
        let before = told.insert(object.uid().to_owned(), why.to_owned());
        if before.as_deref() != Some(why) {
            let about = reference(object.value());
            self.events.warning(&about, "SyncLoadBalancerFailed", why);
        }
    }
}

/// Every balancer: one that goes makes room, and a node has a new address.
fn balancers(client: &Client, _: &Object) -> Vec<Key> {
    let all = client.list(&kinds::SERVICE, "", &Selector::all()).items;
    let mine = all
        .iter()
        .filter(|s| s.str_at("/spec/type") == "LoadBalancer");
    mine.map(|s| (s.namespace().to_owned(), s.name().to_owned()))
        .collect()
}

/// A Service that may hold or free a port of the node.
fn of_service(client: &Client, service: &Object) -> Vec<Key> {
    let mut keys = itself(client, service);
    if matches!(service.str_at("/spec/type"), "LoadBalancer" | "NodePort") {
        keys.extend(balancers(client, service));
    }
    keys
}

impl Controller for LoadBalancers {
    const NAME: &'static str = "loadbalancer";

    fn watches(&self) -> Vec<(Res, Mapper)> {
        vec![(&kinds::SERVICE, of_service), (&kinds::NODE, balancers)]
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        let Some(object) = self.client.find(&kinds::SERVICE, &key.0, &key.1) else {
            return Ok(None);
        };
        let service: Service = object.typed().map_err(Status::internal)?;
        // Another's balancer writes for itself.
        let spec = service.spec.as_ref();
        let other = spec.is_some_and(|s| s.load_balancer_class.is_some());
        let had = !object.at("/status/loadBalancer/ingress").is_null();
        let given = self.given(&service)?;
        let (addresses, why) = match given {
            Given::NotOurs if other || !had => return Ok(None),
            Given::NotOurs => (Vec::new(), None),
            Given::Addresses(addresses) => (addresses, None),
            Given::Waits(why) => (Vec::new(), Some(why)),
        };
        self.tell(&object, why.as_deref());
        let ingress: Vec<Value> = addresses
            .iter()
            .map(|ip| json!({"ip": ip, "ipMode": "VIP"}))
            .collect();
        let balancer = if ingress.is_empty() {
            json!({})
        } else {
            json!({"ingress": ingress})
        };
        if *object.at("/status/loadBalancer") != balancer {
            let mut status = object.at("/status").clone();
            status["loadBalancer"] = balancer;
            let (ns, name) = key;
            self.client
                .set_status(&kinds::SERVICE, ns, name, status)
                .await?;
        }
        Ok(wants(&service).then_some(PERIOD))
    }
}
