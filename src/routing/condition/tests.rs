use std::collections::BTreeMap;

use super::*;
use crate::message::{AttributeValue, Attributes};

fn attributes() -> Attributes {
    BTreeMap::from([
        ("user_role".to_owned(), Some(AttributeValue::Text("admin".to_owned()))),
        ("age".to_owned(), Some(AttributeValue::Number(31.0))),
        ("vip".to_owned(), Some(AttributeValue::Flag(true))),
        ("region".to_owned(), None),
    ])
}

fn truth(source: &str) -> String {
    let attributes = attributes();
    let features = Features {
        request_id: "r1",
        key: None,
        text_length: 12,
        image_width: 640,
        image_height: 480,
        image_bytes: 4_000,
        image_format: "jpeg",
        attributes: &attributes,
        forced_version: None,
    };
    let condition = Condition::parse(source).unwrap_or_else(|error| panic!("{error}"));
    format!("{:?}", condition.evaluate(&features))
}

#[test]
fn conditions_hold_as_they_read() {
    let cases = [
        ("text_length < 20 and image_resolution < 1024", "True"),
        ("text_length<20 and image_resolution<640", "False"),
        ("image_resolution == 640", "True"),
        ("image_width >= 640 and image_height <= 480 and image_bytes > 3999", "True"),
        ("user_role == 'admin'", "True"),
        ("attributes.user_role != \"admin\"", "False"),
        ("not user_role == 'admin' or age > 30.5", "True"),
        ("not (user_role == 'admin' or age > 30)", "False"),
        ("not not vip == true", "True"),
        ("image_format == 'png' or request_id == 'r1'", "True"),
        ("true_color == 'x' or vip == true", "True"),
        ("text_length == 12 or text_length == 1 and text_length == 2", "True"),
    ];
    for (source, expected) in cases {
        assert_eq!(truth(source), expected, "{source}");
    }
}

#[test]
fn a_missing_attribute_never_decides_in_either_polarity() {
    for source in ["region == 'cn'", "not region == 'cn'", "region != 'cn'", "region == 'cn' and vip == true"] {
        assert_eq!(truth(source), r#"Missing("region")"#, "{source}");
    }
    assert_eq!(truth("age == 'old'"), r#"Missing("age")"#, "another type counts as missing");
    assert_eq!(truth("region == 'cn' and vip == false"), "False");
    assert_eq!(truth("region == 'cn' or vip == true"), "True");
}

#[test]
fn a_bad_condition_shows_its_place() {
    let sources = [
        "",
        "text_length <",
        "text_length = 20",
        "text_length < 'a'",
        "image_format == 7",
        "text_lenght < 20",
        "vip < true",
        "user_role == 'admin",
        "user_role == 'admin' xor vip == true",
        "(vip == true",
        "a.b == 1",
    ];
    let shown: Vec<String> = sources.iter().map(|source| Condition::parse(source).unwrap_err().to_string()).collect();
    insta::assert_snapshot!(shown.join("\n"));
}
