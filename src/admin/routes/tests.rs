use std::collections::BTreeMap;

use super::*;

/// The role that each method of each address needs. A route that is missing here fails the test.
const NEEDED: [(&str, &str, Role); 22] = [
    ("POST", "/v1/simulate", Role::Look),
    ("POST", "/v1/predict", Role::Look),
    ("POST", "/v1/explain", Role::Look),
    ("GET", "/v1/instances", Role::Look),
    ("GET", "/v1/config", Role::Look),
    ("GET", "/v1/configs", Role::Look),
    ("GET", "/v1/configs/{digest}", Role::Look),
    ("GET", "/v1/status", Role::Look),
    ("GET", "/v1/audit", Role::Look),
    ("GET", "/v1/openapi.json", Role::Look),
    ("PUT", "/v1/config", Role::Operate),
    ("DELETE", "/v1/config", Role::Operate),
    ("DELETE", "/v1/overrides", Role::Operate),
    ("GET", "/v1/evidence", Role::Look),
    ("POST", "/v1/rollback", Role::Operate),
    ("POST", "/v1/default/{version}", Role::Operate),
    ("POST", "/v1/experiments/{name}/pause", Role::Operate),
    ("POST", "/v1/experiments/{name}/resume", Role::Operate),
    ("POST", "/v1/experiments/{name}/promote/{variant}", Role::Operate),
    ("POST", "/v1/experiments/{name}/traffic/{share}", Role::Operate),
    ("POST", "/v1/experiments/{name}/ramp/{share}", Role::Operate),
    ("POST", "/v1/record-format", Role::Operate),
];

#[test]
fn every_route_needs_the_role_of_the_table_and_is_described() {
    let key = |method: &str, path: &str| format!("{method} {path}");
    let expected: BTreeMap<String, Role> =
        NEEDED.iter().map(|(method, path, role)| (key(method, path), *role)).collect();
    let served: BTreeMap<String, Role> =
        routes().iter().map(|route| (key(route.method, route.path), route.role)).collect();
    assert_eq!(served, expected);

    let document = super::super::openapi();
    let paths = document["paths"].as_object().unwrap().iter();
    let described = paths.flat_map(|(path, methods)| {
        methods.as_object().unwrap().keys().map(move |method| key(&method.to_uppercase(), path))
    });
    let mut described: Vec<String> = described.collect();
    described.sort();
    assert_eq!(described, expected.into_keys().collect::<Vec<_>>());
}
