//! Controllers: each compares what is wanted with what is, and writes the difference.
//!
//! A controller has two files: the plan, a pure function of (desired, observed), and what carries
//! it out. Changes only wake: every look reads the world anew, so that a lost or repeated wake-up
//! harms nothing, and a world that is as it should be is not written to.

pub mod aggregation;
pub mod autoscaler;
mod autoscaler_run;
pub mod certificates;
pub mod cronjob;
mod cronjob_run;
pub mod daemonset;
mod daemonset_run;
pub mod definitions;
mod definitions_run;
pub mod deployment;
mod deployment_run;
pub mod disruption;
pub mod drive;
pub mod endpoints;
mod endpoints_run;
pub mod gc;
mod gc_run;
pub mod job;
mod job_run;
pub mod loadbalancer;
mod loadbalancer_run;
mod namespaces;
pub mod objects;
mod pods;
pub mod queue;
pub mod replicaset;
mod replicaset_run;
pub mod resourcequota;
pub mod revisions;
pub mod statefulset;
mod statefulset_run;
pub mod volumes;
mod volumes_run;

use std::sync::Arc;

use replicaset_run::{OfControllers, OfSets, ReplicaSets};
use tokio::task::JoinHandle;
pub use volumes_run::Place;

use crate::api::Client;
use crate::api::http::tls::Authority;
use crate::api::node::NodeAgent;
use crate::events::Recorder;

/// Starts every controller.
pub fn start(
    client: &Client,
    events: &Recorder,
    place: &Place,
    node: Arc<dyn NodeAgent>,
    authority: &Arc<Authority>,
) -> Vec<JoinHandle<()>> {
    vec![
        drive::spawn(
            client,
            autoscaler_run::Autoscalers::new(client, events, node),
        ),
        drive::spawn(client, aggregation::Aggregation::new(client)),
        drive::spawn(client, certificates::Certificates::new(client, authority)),
        drive::spawn(client, ReplicaSets::<OfSets>::new(client, events)),
        drive::spawn(client, ReplicaSets::<OfControllers>::new(client, events)),
        drive::spawn(client, deployment_run::Deployments::new(client, events)),
        drive::spawn(client, endpoints_run::EndpointSlices::new(client)),
        drive::spawn(client, gc_run::GarbageCollector::new(client)),
        drive::spawn(client, definitions_run::Definitions::new(client)),
        drive::spawn(client, namespaces::Namespaces::new(client)),
        drive::spawn(client, statefulset_run::StatefulSets::new(client, events)),
        drive::spawn(client, daemonset_run::DaemonSets::new(client, events)),
        drive::spawn(client, volumes_run::Claims::new(client, events, place)),
        drive::spawn(client, volumes_run::Volumes::new(client, events, place)),
        drive::spawn(
            client,
            loadbalancer_run::LoadBalancers::new(client, events, &place.reserved),
        ),
        drive::spawn(client, disruption::Disruption::new(client)),
        drive::spawn(client, job_run::Jobs::new(client, events)),
        drive::spawn(client, cronjob_run::CronJobs::new(client, events)),
        drive::spawn(client, resourcequota::ResourceQuotas::new(client)),
    ]
}
