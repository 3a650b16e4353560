use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::metrics::Sample;
use super::*;
use crate::api::node::Used;

const START: i64 = 1_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).unwrap()
}

/// As it is stored: with its defaults.
fn autoscaler(spec: Value) -> HorizontalPodAutoscaler {
    let mut whole = json!({"minReplicas": 1, "maxReplicas": 10,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]});
    json_patch::merge(&mut whole, &spec);
    let mut object = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": whole});
    (crate::api::kinds::HORIZONTAL_POD_AUTOSCALER.defaults)(&mut object);
    let mut faults = crate::api::validate::Faults::default();
    (crate::api::kinds::HORIZONTAL_POD_AUTOSCALER.validate)(&object, &mut faults);
    assert!(faults.is_empty(), "{:?}", faults.into_causes());
    serde_json::from_value(object).unwrap()
}

/// Ready long since, with requests of 100m and 100Mi.
fn pod(number: usize) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": format!("p{number}"), "uid": format!("p{number}")},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m", "memory": "100Mi"}}}]},
        "status": {"phase": "Running", "startTime": at(-4000).to_string(),
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at(-3990).to_string()}]}}))
    .unwrap()
}

fn scale(pods: Vec<Pod>) -> Scale {
    let n = pods.len() as i32;
    Scale {
        wanted: n,
        there: n,
        pods,
    }
}

/// Each pod's CPU in thousandths; `None` was not measured.
fn metrics(used: &[Option<u64>], now: Timestamp) -> Metrics {
    let sample = |milli: u64| {
        let used = Used {
            nano_cores: milli * 1_000_000,
            memory: milli << 20,
        };
        Sample {
            containers: BTreeMap::from([("c".to_owned(), used)]),
        }
    };
    let pods = used.iter().enumerate();
    Metrics {
        at: now,
        window: std::time::Duration::from_secs(15),
        pods: pods
            .filter_map(|(i, used)| Some((format!("p{i}"), sample((*used)?))))
            .collect(),
    }
}

fn decide(spec: Value, used: &[Option<u64>]) -> Decision {
    let pods = (0..used.len()).map(pod).collect();
    plan(
        &autoscaler(spec),
        &Ok(scale(pods)),
        &Ok(metrics(used, at(0))),
        &Memory::default(),
        at(0),
    )
}

/// Without the windows that hold a number back.
fn free() -> Value {
    json!({"scaleDown": {"stabilizationWindowSeconds": 0}, "scaleUp": {"policies": [{"type": "Percent", "value": 900, "periodSeconds": 15}]}})
}

fn wanted(spec: Value, used: &[Option<u64>]) -> i32 {
    let mut spec = spec;
    spec["behavior"] = free();
    decide(spec, used).status.desired_replicas
}

fn condition<'a>(decision: &'a Decision, kind: &str) -> (&'a str, &'a str) {
    let all = decision.status.conditions.as_ref().unwrap();
    let found = all.iter().find(|c| c.type_ == kind).unwrap();
    (&found.status, found.reason.as_deref().unwrap())
}

#[test]
fn the_ratio_of_use_and_target_decides() {
    for (used, replicas) in [
        (vec![Some(50), Some(50)], 2),
        (vec![Some(54), Some(54)], 2),
        (vec![Some(56), Some(56)], 3),
        (vec![Some(100), Some(100)], 4),
        (vec![Some(46), Some(46)], 2),
        (vec![Some(10), Some(10)], 1),
        (vec![Some(0), Some(0)], 1),
        (vec![Some(900), Some(900)], 10),
    ] {
        assert_eq!(wanted(json!({}), &used), replicas, "{used:?}");
    }
}

#[test]
fn what_is_not_measured_counts_for_caution() {
    // Fewer would do, but the third may use all it asked for: (10 + 10 + 100) / 300 is 40 %.
    assert_eq!(wanted(json!({}), &[Some(10), Some(10), None]), 3);
    // More are needed, if the third does nothing: 200 / 300 is 66 %.
    assert_eq!(wanted(json!({}), &[Some(100), Some(100), None]), 4);
    // Which turns it round: nothing is done.
    assert_eq!(wanted(json!({}), &[Some(60), None]), 2);
    let none = decide(json!({}), &[None, None]);
    assert_eq!(none.status.desired_replicas, 2);
    assert_eq!(
        condition(&none, "ScalingActive"),
        ("False", "FailedGetResourceMetric")
    );
    assert!(none.rescale.is_none());
}

#[test]
fn a_pod_that_starts_uses_nothing() {
    let mut starting = pod(1);
    starting.status.as_mut().unwrap().phase = Some("Pending".into());
    let mut young = pod(2);
    let status = young.status.as_mut().unwrap();
    status.start_time = Some(Time(at(-20)));
    status.conditions.as_mut().unwrap()[0].last_transition_time = Some(Time(at(-5)));
    let now = metrics(&[Some(100), None, Some(500)], at(0));
    let hpa = autoscaler(json!({"behavior": free()}));
    let all = scale(vec![pod(0), starting, young]);
    let decision = plan(&hpa, &Ok(all), &Ok(now), &Memory::default(), at(0));
    // (100 + 0 + 0) / 300 is 33 %, below the target, where 100 % was above: nothing is done.
    assert_eq!(decision.status.desired_replicas, 3);
}

#[test]
fn a_missing_request_is_told() {
    let mut bare = pod(0);
    bare.spec.as_mut().unwrap().containers[0].resources = None;
    let decision = plan(
        &autoscaler(json!({})),
        &Ok(scale(vec![bare])),
        &Ok(metrics(&[Some(5)], at(0))),
        &Memory::default(),
        at(0),
    );
    let why = "failed to get cpu utilization: missing request for cpu in container c of Pod p0";
    assert_eq!(
        decision.warnings[0],
        ("FailedGetResourceMetric".to_owned(), why.to_owned())
    );
}

#[test]
fn several_metrics_take_the_largest_and_a_failed_one_holds_down() {
    let memory = json!({"type": "ContainerResource", "containerResource": {"name": "memory", "container": "c",
        "target": {"type": "AverageValue", "averageValue": "10Mi"}}});
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    let broken = json!({"type": "External", "external": {"metric": {"name": "q"}, "target": {"type": "Value", "value": "1"}}});
    assert_eq!(
        wanted(json!({"metrics": [cpu, memory]}), &[Some(20), Some(20)]),
        4
    );
    assert_eq!(
        wanted(json!({"metrics": [cpu, broken]}), &[Some(100), Some(100)]),
        4
    );
    assert_eq!(
        wanted(json!({"metrics": [cpu, broken]}), &[Some(1), Some(1)]),
        2
    );
}

#[test]
fn bounds_hold_without_a_metric() {
    let at_most = decide(json!({"maxReplicas": 2}), &[None, None, None]);
    assert_eq!(
        at_most.rescale,
        Some((
            2,
            "Current number of replicas above Spec.MaxReplicas".to_owned()
        ))
    );
    let at_least = decide(json!({"minReplicas": 3}), &[None]);
    assert_eq!(at_least.status.desired_replicas, 3);
    let off = decide(json!({}), &[]);
    assert_eq!(
        condition(&off, "ScalingActive"),
        ("False", "ScalingDisabled")
    );
}

#[test]
fn a_smaller_number_waits_for_its_window() {
    let hpa = autoscaler(json!({}));
    let mut memory = Memory::default();
    let mut last = 0;
    for round in 0..=21 {
        let now = at(round * 15);
        let pods = (0..4).map(pod).collect();
        let decision = plan(
            &hpa,
            &Ok(scale(pods)),
            &Ok(metrics(&[Some(10); 4], now)),
            &memory,
            now,
        );
        memory = decision.memory.clone();
        last = decision.status.desired_replicas;
        if round == 1 {
            assert_eq!(
                condition(&decision, "AbleToScale"),
                ("True", "ScaleDownStabilized")
            );
        }
        if last != 4 {
            assert_eq!(round, 20, "held for 300 seconds");
            break;
        }
    }
    assert_eq!(last, 1);
}

#[test]
fn policies_limit_a_period() {
    let up = json!({"behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}}, "maxReplicas": 100});
    let decision = decide(up, &[Some(500), Some(500)]);
    assert_eq!(decision.status.desired_replicas, 3);
    assert_eq!(
        condition(&decision, "ScalingLimited"),
        ("True", "ScaleUpLimit")
    );
    let off = json!({"behavior": {"scaleDown": {"selectPolicy": "Disabled", "stabilizationWindowSeconds": 0}}});
    assert_eq!(decide(off, &[Some(1), Some(1)]).status.desired_replicas, 2);
    let down = json!({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Min",
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}, {"type": "Percent", "value": 50, "periodSeconds": 60}]}}});
    assert_eq!(decide(down, &[Some(0); 6]).status.desired_replicas, 5);
}

#[test]
fn a_tolerance_of_ones_own() {
    let wide = json!({"behavior": {"scaleUp": {"tolerance": "0.5"}}});
    assert_eq!(
        decide(wide, &[Some(70), Some(70)]).status.desired_replicas,
        2
    );
}

fn policies() -> impl Strategy<Value = Value> {
    let policy = (
        prop_oneof![Just("Pods"), Just("Percent")],
        1..200_i32,
        1..600_i32,
    );
    let policy = policy.prop_map(
        |(kind, value, period)| json!({"type": kind, "value": value, "periodSeconds": period}),
    );
    let rules = (
        prop::collection::vec(policy, 1..3),
        0..400_i32,
        prop_oneof![Just("Max"), Just("Min")],
    );
    rules.prop_map(|(policies, window, select)| {
        json!({"policies": policies, "stabilizationWindowSeconds": window, "selectPolicy": select})
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// From any number of replicas, with readings that fail now and then, a load that stays comes to
    /// a number that stays, within the bounds, and then nothing is written.
    #[test]
    fn it_converges_and_then_writes_nothing(
        load in 0_u64..1500, from in 1_i32..20, least in 1_i32..4,
        rules in prop::option::of((policies(), policies())), broken in prop::collection::vec(any::<bool>(), 40),
    ) {
        let mut spec = json!({"minReplicas": least, "maxReplicas": 12});
        if let Some((up, down)) = rules {
            spec["behavior"] = json!({"scaleUp": up, "scaleDown": down});
        }
        let mut hpa = autoscaler(spec);
        let (mut replicas, mut memory, mut still) = (from, Memory::default(), 0);
        let every: Vec<Pod> = (0..20).map(pod).collect();
        // Long enough for the slowest policy: a pod in ten minutes.
        for round in 0..600_i64 {
            let now = at(round * 15);
            let each = load / replicas as u64;
            let pods = every[..replicas as usize].to_vec();
            let mut scale = scale(pods);
            scale.wanted = replicas;
            let failed = broken.get(round as usize).copied().unwrap_or(false);
            let measured = if failed {
                Err("away".to_owned())
            } else {
                Ok(metrics(&vec![Some(each); replicas as usize], now))
            };
            let decision = plan(&hpa, &Ok(scale), &measured, &memory, now);
            let desired = decision.status.desired_replicas;
            prop_assert!((least..=12).contains(&desired) || failed || desired == replicas);
            let same = decision.rescale.is_none() && hpa.status.as_ref() == Some(&decision.status);
            still = if same { still + 1 } else { 0 };
            prop_assert!(still == 0 || decision.warnings.is_empty() || failed);
            memory = decision.memory;
            prop_assert!(memory.recommended.len() < 300);
            if let Some((n, _)) = decision.rescale {
                prop_assert!(n != replicas);
                replicas = n;
            }
            hpa.status = Some(decision.status);
        }
        prop_assert!(still > 50, "still moving after 600 rounds at {replicas}");
        let load = f64::from(u32::try_from(load).unwrap());
        let share = load / f64::from(replicas) / 50.0;
        prop_assert!(replicas == 12 || share <= 1.1 + 0.02, "{load} on {replicas}");
        let fewer = load / f64::from(replicas - 1) / 50.0;
        prop_assert!(replicas == least || fewer > 0.89 || replicas == 1, "{load} on {replicas}");
    }
}

#[test]
fn a_clock_that_is_set_back_frees_nothing() {
    let mut memory = Memory::default();
    memory.recommended.push((at(100), 8));
    let back = at(0);
    memory.trim(back);
    let held = behavior::limit(&autoscaler(json!({})).spec, &memory, 8, 2, back);
    assert_eq!(held.replicas, 8);
    let later = at(100) + SignedDuration::from_secs(301);
    assert_eq!(
        behavior::limit(&autoscaler(json!({})).spec, &memory, 8, 2, later).replicas,
        2
    );
}
