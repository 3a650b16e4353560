use super::*;
use serde_json::json;

fn now() -> Timestamp {
    "2026-11-21T10:00:00Z".parse().unwrap()
}

fn deployment(replicas: i32, image: &str) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "d-1", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                 "progressDeadlineSeconds": 600,
                 "template": {"metadata": {"labels": {"app": "web"}},
                              "spec": {"containers": [{"name": "a", "image": image}]}}}
    }))
    .unwrap()
}

/// A world with the Deployment, its sets, and pods that become available at once.
struct World {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    writes: usize,
    fewest: i32,
    most: i32,
}

impl World {
    fn new(deployment: Deployment) -> Self {
        Self {
            deployment,
            sets: vec![],
            writes: 0,
            fewest: i32::MAX,
            most: 0,
        }
    }

    fn apply(&mut self, step: Step) {
        self.writes += 1;
        let set = |sets: &mut Vec<ReplicaSet>, name: &str| {
            sets.iter().position(|s| sets::name(s) == name).unwrap()
        };
        match step {
            Step::Create(mut new) => {
                let age = self.sets.len() as i64;
                let born = Timestamp::from_second(1_000 + age).unwrap();
                new.metadata.creation_timestamp =
                    Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(born));
                self.sets.push(*new);
            }
            Step::Scale {
                name,
                replicas,
                annotations,
            } => {
                let index = set(&mut self.sets, &name);
                self.sets[index].spec.as_mut().unwrap().replicas = Some(replicas);
                self.sets[index]
                    .metadata
                    .annotations
                    .get_or_insert_default()
                    .extend(annotations);
            }
            Step::AnnotateSet { name, annotations } => {
                let index = set(&mut self.sets, &name);
                self.sets[index]
                    .metadata
                    .annotations
                    .get_or_insert_default()
                    .extend(annotations);
            }
            Step::Annotate(annotations) => {
                self.deployment
                    .metadata
                    .annotations
                    .get_or_insert_default()
                    .extend(annotations);
            }
            Step::Remove(name) => self.sets.retain(|s| sets::name(s) != name),
            Step::Collision(status) | Step::Status(status) => self.deployment.status = Some(status),
        }
    }

    /// Plans and applies until nothing is left to write; every other round the pods follow.
    fn settle(&mut self) {
        for round in 0..200 {
            let before = self.writes;
            let steps = plan(&self.deployment, &self.sets, false, now()).steps;
            for step in steps {
                self.apply(step);
            }
            let mut moved = false;
            for set in &mut self.sets {
                let wanted = sets::replicas(set);
                let status = set.status.get_or_insert_default();
                moved |= status.replicas != wanted;
                status.replicas = wanted;
                status.ready_replicas = Some(wanted);
                // Pods take two rounds to be available, but go at once.
                let available = status.available_replicas.unwrap_or(0);
                let next = if available > wanted || round % 2 == 0 {
                    wanted
                } else {
                    available
                };
                moved |= available != next;
                status.available_replicas = Some(next);
                status.observed_generation = set.metadata.generation;
            }
            let serving: i32 = self.sets.iter().map(sets::available).sum();
            let total: i32 = self.sets.iter().map(sets::replicas).sum();
            self.fewest = self.fewest.min(serving);
            self.most = self.most.max(total);
            if self.writes == before && !moved && round % 2 == 1 {
                return;
            }
        }
        panic!("did not settle");
    }

    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(sets::replicas).collect()
    }

    fn image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().unwrap();
        spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
    }
}

#[test]
fn a_rollout_keeps_within_surge_and_unavailable_and_then_writes_nothing() {
    let mut world = World::new(deployment(10, "v1"));
    world.settle();
    assert_eq!(world.sizes(), [10]);
    world.image("v2");
    (world.fewest, world.most) = (i32::MAX, 0);
    world.settle();
    assert_eq!(world.sizes(), [0, 10]);
    // 25 % of ten: surge rounds up to 3, unavailable down to 2.
    assert!(world.most <= 13, "at most 13, was {}", world.most);
    assert!(world.fewest >= 8, "at least 8, was {}", world.fewest);
    let writes = world.writes;
    world.settle();
    assert_eq!(world.writes, writes);
    let status = world.deployment.status.clone().unwrap();
    let progressing = status
        .conditions
        .unwrap()
        .into_iter()
        .find(|c| c.type_ == "Progressing");
    assert_eq!(
        progressing.unwrap().reason.as_deref(),
        Some("NewReplicaSetAvailable")
    );
}

#[test]
fn undo_takes_the_old_set_up_again_as_a_new_revision() {
    let mut world = World::new(deployment(3, "v1"));
    world.settle();
    world.image("v2");
    world.settle();
    world.image("v1");
    world.settle();
    assert_eq!(world.sizes(), [3, 0]);
    assert_eq!(sets::revision(&world.sets[0].metadata), 3);
    assert_eq!(sets::revision(&world.deployment.metadata), 3);
    let history = sets::annotation(
        &world.sets[0].metadata,
        "deployment.kubernetes.io/revision-history",
    );
    assert_eq!(history, Some("1"));
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_in_proportion() {
    let mut world = World::new(deployment(10, "v1"));
    world.settle();
    world.image("v2");
    for step in plan(&world.deployment, &world.sets, false, now()).steps {
        world.apply(step);
    }
    assert_eq!(world.sizes(), [10, 3]);
    world.deployment.spec.as_mut().unwrap().replicas = Some(20);
    for step in plan(&world.deployment, &world.sets, false, now()).steps {
        world.apply(step);
    }
    assert_eq!(world.sizes().iter().sum::<i32>(), 25);
    world.settle();
    assert_eq!(world.sizes(), [0, 20]);
}

#[test]
fn history_is_kept_to_its_limit() {
    let mut world = World::new(deployment(2, "v0"));
    world
        .deployment
        .spec
        .as_mut()
        .unwrap()
        .revision_history_limit = Some(2);
    for version in 0..6 {
        world.image(&format!("v{version}"));
        world.settle();
    }
    assert_eq!(world.sizes(), [0, 0, 2]);
}

#[test]
fn recreate_waits_for_the_old_pods() {
    let mut world = World::new(deployment(2, "v1"));
    let spec = world.deployment.spec.as_mut().unwrap();
    spec.strategy = serde_json::from_value(json!({"type": "Recreate"})).unwrap();
    world.settle();
    world.image("v2");
    world.settle();
    assert_eq!(world.sizes(), [0, 2]);
    assert!(world.most <= 2);
}

#[test]
fn a_stuck_rollout_is_told_after_its_deadline() {
    let mut world = World::new(deployment(1, "v1"));
    for step in plan(&world.deployment, &world.sets, false, now()).steps {
        world.apply(step);
    }
    let first = plan(&world.deployment, &world.sets, false, now());
    assert!(first.again_after.is_some_and(|s| (1..=601).contains(&s)));
    let late = "2026-11-21T10:10:02Z".parse().unwrap();
    let steps = plan(&world.deployment, &world.sets, false, late).steps;
    let Some(Step::Status(status)) = steps.last() else {
        panic!("{steps:?}")
    };
    let conditions = status.conditions.as_ref().unwrap();
    let progressing = conditions
        .iter()
        .find(|c| c.type_ == "Progressing")
        .unwrap();
    assert_eq!(
        progressing.reason.as_deref(),
        Some("ProgressDeadlineExceeded")
    );
}

#[test]
fn fences_round_as_kubernetes_rounds_them() {
    for (replicas, expected) in [(1, (1, 0)), (3, (1, 0)), (4, (1, 1)), (10, (3, 2))] {
        assert_eq!(fence(&deployment(replicas, "x")), expected);
    }
}

/// From any state, with writes that fail and pods that are slow or never available, the sets come
/// to what the Deployment asks for once failures end, and then nothing is written.
mod property {
    use super::*;
    use proptest::prelude::*;

    /// What happens in one round: the template, the replicas, the writes that fail, the pods that
    /// are available.
    #[derive(Clone, Debug)]
    struct Round {
        image: u8,
        replicas: i32,
        failing: u8,
        available: u8,
    }

    fn rounds() -> impl Strategy<Value = Vec<Round>> {
        let round = (0..3_u8, 0..7_i32, any::<u8>(), any::<u8>());
        let round = round.prop_map(|(image, replicas, failing, available)| Round {
            image,
            replicas,
            failing,
            available,
        });
        proptest::collection::vec(round, 0..12)
    }

    fn update() -> impl Strategy<Value = serde_json::Value> {
        let number = prop_oneof![
            (0..4_i32).prop_map(|n| json!(n)),
            (0..101_u8).prop_map(|n| json!(format!("{n}%"))),
        ];
        prop_oneof![
            Just(json!({"type": "Recreate"})),
            (number.clone(), number).prop_map(|(surge, unavailable)| json!({
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}
            })),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn deployments_converge_whatever_fails_and_then_write_nothing(
            rounds in rounds(), strategy in update()
        ) {
            let mut world = World::new(deployment(2, "v0"));
            let spec = world.deployment.spec.as_mut().unwrap();
            spec.strategy = serde_json::from_value(strategy).unwrap();
            for round in &rounds {
                world.image(&format!("v{}", round.image));
                world.deployment.spec.as_mut().unwrap().replicas = Some(round.replicas);
                let steps = plan(&world.deployment, &world.sets, false, now()).steps;
                for (index, step) in steps.into_iter().enumerate() {
                    // A write that fails ends the look, as in the executor.
                    if round.failing >> (index % 8) & 1 == 1 {
                        break;
                    }
                    world.apply(step);
                }
                for (index, set) in world.sets.iter_mut().enumerate() {
                    let wanted = sets::replicas(set);
                    let status = set.status.get_or_insert_default();
                    status.replicas = wanted;
                    let up = round.available >> (index % 8) & 1 == 1;
                    status.available_replicas = Some(if up { wanted } else { 0 });
                }
            }
            world.settle();
            let wanted = world.deployment.spec.as_ref().unwrap().replicas.unwrap();
            let total: i32 = world.sizes().iter().sum();
            prop_assert_eq!(total, wanted);
            let family = sets::Family::new(&world.deployment, &world.sets);
            prop_assert_eq!(family.new.map(sets::replicas), Some(wanted));
            let writes = world.writes;
            world.settle();
            prop_assert_eq!(world.writes, writes);
        }
    }
}
