//! Field numbers against byte strings that another implementation of CRI v1 produces.

use prost::Message;
use rrun_cri_api::v1;

#[test]
fn image_spec_uses_the_high_field_numbers() {
    let spec = v1::ImageSpec {
        image: "a".into(),
        user_specified_image: "b".into(),
        runtime_handler: "c".into(),
        image_ref: "d".into(),
        ..Default::default()
    };
    assert_eq!(
        spec.encode_to_vec(),
        b"\x0a\x01a\x92\x01\x01b\x9a\x01\x01c\xa2\x01\x01d"
    );
}

#[test]
fn container_config_stop_signal_is_field_18_and_sigterm_is_23() {
    let config = v1::ContainerConfig {
        stop_signal: v1::Signal::Sigterm as i32,
        ..Default::default()
    };
    assert_eq!(config.encode_to_vec(), b"\x90\x01\x17");
}

#[test]
fn security_context_out_of_order_numbers() {
    let context = v1::LinuxContainerSecurityContext {
        run_as_group: Some(v1::Int64Value { value: 7 }),
        supplemental_groups: vec![1, 300],
        supplemental_groups_policy: v1::SupplementalGroupsPolicy::Strict as i32,
        no_new_privs: true,
        ..Default::default()
    };
    assert_eq!(
        context.encode_to_vec(),
        b"\x42\x03\x01\xac\x02\x58\x01\x62\x02\x08\x07\x88\x01\x01"
    );
}

#[test]
fn unknown_fields_of_a_newer_client_are_skipped() {
    let bytes = b"\x0a\x01a\xa2\x06\x02zz";
    let spec = v1::ImageSpec::decode(&bytes[..]).expect("a newer field is no error");
    assert_eq!(spec.image, "a");
}

#[test]
fn credentials_are_not_in_the_debug_output() {
    let auth = v1::AuthConfig {
        password: "hunter2".into(),
        ..Default::default()
    };
    assert!(!format!("{auth:?}").contains("hunter2"));
}
