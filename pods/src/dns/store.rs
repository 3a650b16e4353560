//! The zone's records, read from the API's memory.

use std::net::IpAddr;
use std::sync::Arc;

use super::zone::{Records, cluster_addresses};
use crate::api::{Client, kinds};
use crate::store::{Object, Selector};

pub(super) struct StoreRecords {
    client: Client,
}

impl StoreRecords {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    fn slices_where(&self, ns: &str, selector: &Selector) -> Vec<Arc<Object>> {
        self.client.list(&kinds::ENDPOINT_SLICE, ns, selector).items
    }
}

impl Records for StoreRecords {
    fn has_namespace(&self, ns: &str) -> bool {
        self.client.find(&kinds::NAMESPACE, "", ns).is_some()
    }

    fn service(&self, ns: &str, name: &str) -> Option<Arc<Object>> {
        self.client.find(&kinds::SERVICE, ns, name)
    }

    fn slices(&self, ns: &str, service: &str) -> Vec<Arc<Object>> {
        let labels = format!("kubernetes.io/service-name={service}");
        // A name from the wire that is no label value names no Service either.
        let Ok(selector) = Selector::all().with_labels(&labels) else {
            return Vec::new();
        };
        self.slices_where(ns, &selector)
    }

    fn service_at(&self, address: IpAddr) -> Option<Arc<Object>> {
        let services = self
            .client
            .list(&kinds::SERVICE, "", &Selector::all())
            .items;
        services
            .into_iter()
            .find(|s| cluster_addresses(s).any(|a| a == address))
    }

    fn slices_at(&self, address: IpAddr) -> Vec<Arc<Object>> {
        let text = address.to_string();
        let has = |slice: &Arc<Object>| {
            let endpoints = slice.at("/endpoints").as_array().into_iter().flatten();
            endpoints
                .flat_map(|e| e["addresses"].as_array().into_iter().flatten())
                .any(|a| *a == *text)
        };
        self.slices_where("", &Selector::all())
            .into_iter()
            .filter(has)
            .collect()
    }
}
