//! Carries out the plan of a Service's endpoints.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::drive::{Controller, Key, Mapper, itself};
use super::endpoints::{SERVICE_NAME, plan};
use crate::api::{Client, DeleteOptions, Res, Status, kinds};
use crate::store::{Object, Selector};

/// See [`super::endpoints`].
pub struct EndpointSlices {
    client: Client,
}

impl EndpointSlices {
    /// A controller that writes through `client`.
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.named("endpointslice-controller"),
        }
    }

    fn pods(&self, object: &Object) -> Result<Vec<Pod>, Status> {
        let Some(wanted) = object.at("/spec/selector").as_object() else {
            return Ok(vec![]);
        };
        let list = self
            .client
            .list(&kinds::POD, object.namespace(), &Selector::all());
        let matches = |pod: &Object| {
            wanted
                .iter()
                .all(|(key, value)| pod.label(key) == value.as_str())
        };
        let pods = list.items.iter().filter(|pod| matches(pod));
        pods.map(|pod| pod.typed().map_err(Status::internal))
            .collect()
    }

    fn slices(&self, key: &Key) -> Result<Vec<EndpointSlice>, Status> {
        let list = self
            .client
            .list(&kinds::ENDPOINT_SLICE, &key.0, &Selector::all());
        let own = list
            .items
            .iter()
            .filter(|s| s.label(SERVICE_NAME) == Some(&key.1));
        own.map(|s| s.typed().map_err(Status::internal)).collect()
    }

    async fn put(&self, namespace: &str, slice: &EndpointSlice) -> Result<(), Status> {
        let mut value = serde_json::to_value(slice).map_err(Status::internal)?;
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        let stored = self.client.find(&kinds::ENDPOINT_SLICE, namespace, name);
        match stored {
            None => {
                self.client
                    .create(&kinds::ENDPOINT_SLICE, namespace, value)
                    .await?
            }
            Some(stored) => {
                value["metadata"]["resourceVersion"] = stored.resource_version().to_string().into();
                self.client
                    .update(&kinds::ENDPOINT_SLICE, namespace, value)
                    .await?
            }
        };
        Ok(())
    }
}

fn service_of_slice(_: &Client, slice: &Object) -> Vec<Key> {
    let name = slice.label(SERVICE_NAME);
    name.map(|name| (slice.namespace().to_owned(), name.to_owned()))
        .into_iter()
        .collect()
}

/// The Services whose selector the pod satisfies, and those that it is an endpoint of although it
/// no longer does.
fn services_of_pod(client: &Client, pod: &Object) -> Vec<Key> {
    let list = client.list(&kinds::SERVICE, pod.namespace(), &Selector::all());
    let selects = |service: &Object| {
        let selector = service.at("/spec/selector").as_object();
        selector.is_some_and(|wanted| {
            !wanted.is_empty() && wanted.iter().all(|(k, v)| pod.label(k) == v.as_str())
        })
    };
    let mut keys: Vec<Key> = list
        .items
        .iter()
        .filter(|service| selects(service))
        .map(|service| (service.namespace().to_owned(), service.name().to_owned()))
        .collect();
    let slices = client.list(&kinds::ENDPOINT_SLICE, pod.namespace(), &Selector::all());
    for slice in &slices.items {
        let mut endpoints = slice.at("/endpoints").as_array().into_iter().flatten();
        if endpoints.any(|e| e["targetRef"]["uid"] == pod.uid()) {
            keys.extend(service_of_slice(client, slice));
        }
    }
    keys
}

impl Controller for EndpointSlices {
    const NAME: &'static str = "endpointslice";

    fn watches(&self) -> Vec<(Res, Mapper)> {
        vec![
            (&kinds::SERVICE, itself),
            (&kinds::POD, services_of_pod),
            (&kinds::ENDPOINT_SLICE, service_of_slice),
        ]
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Status> {
        let slices = self.slices(key)?;
        let options = DeleteOptions::default();
        let Some(object) = self.client.find(&kinds::SERVICE, &key.0, &key.1) else {
            for slice in slices.iter().filter(|s| super::endpoints::is_ours(s)) {
                let name = slice.metadata.name.as_deref().unwrap_or_default();
                self.client
                    .delete(&kinds::ENDPOINT_SLICE, &key.0, name, &options)
                    .await?;
            }
            let old = self
                .client
                .delete(&kinds::ENDPOINTS, &key.0, &key.1, &options)
                .await;
            return match old {
                Err(status) if status.code != 404 => Err(status),
                _ => Ok(None),
            };
        };
        let service: Service = object.typed().map_err(Status::internal)?;
        let pods = self.pods(&object)?;
        let stored = self.client.find(&kinds::ENDPOINTS, &key.0, &key.1);
        let stored = stored.map(|o| o.typed().map_err(Status::internal));
        let stored = stored.transpose()?;
        let plan = plan(&service, &pods, &slices, stored.as_ref());
        for slice in &plan.put {
            self.put(&key.0, slice).await?;
        }
        for name in &plan.delete {
            self.client
                .delete(&kinds::ENDPOINT_SLICE, &key.0, name, &options)
                .await?;
        }
        if let Some(wanted) = &plan.endpoints {
            let wanted = serde_json::to_value(wanted).map_err(Status::internal)?;
            if stored.is_some() {
                self.client
                    .update(&kinds::ENDPOINTS, &key.0, wanted)
                    .await?;
            } else {
                self.client
                    .create(&kinds::ENDPOINTS, &key.0, wanted)
                    .await?;
            }
        }
        Ok(None)
    }
}
