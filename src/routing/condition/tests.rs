use std::collections::BTreeMap;

use super::*;
use crate::message::{AttributeValue, Attributes};

fn attributes() -> Attributes {
    BTreeMap::from([
        ("user_role".to_owned(), Some(AttributeValue::Text("admin".to_owned()))),
        ("age".to_owned(), Some(AttributeValue::Number(31.0))),
        ("vip".to_owned(), Some(AttributeValue::Flag(true))),
        ("region".to_owned(), None),
        ("app_version".to_owned(), Some(AttributeValue::Text("2.3.0-rc.1".to_owned()))),
        ("source_ip".to_owned(), Some(AttributeValue::Text("10.20.30.40".to_owned()))),
        ("joined".to_owned(), Some(AttributeValue::Text("2026-05-01T10:00:00+02:00".to_owned()))),
        ("app-version".to_owned(), Some(AttributeValue::Text("1.2.0".to_owned()))),
        ("mapped_ip".to_owned(), Some(AttributeValue::Text("::ffff:10.1.2.3".to_owned()))),
    ])
}

/// Saturday 2026-11-21, 22:30 in UTC: in Shanghai it is Sunday, 06:30.
const TIME_MS: i64 = 1_795_300_200_000;

fn with_features<T>(run: impl FnOnce(&Features<'_>) -> T) -> T {
    let attributes = attributes();
    let features = Features {
        request_id: "r1",
        key: None,
        texts: &["two birds".to_owned(), "a Casino on the beach".to_owned()],
        caption: None,
        text_length: 12,
        non_latin_share: 0.0,
        image_width: 640,
        image_height: 480,
        image_bytes: 4_000,
        image_format: "jpeg",
        time_ms: Some(TIME_MS),
        attributes: &attributes,
        forced_version: None,
    };
    run(&features)
}

fn truth(source: &str) -> String {
    let condition = Condition::parse(source).unwrap_or_else(|error| panic!("{error}"));
    with_features(|features| format!("{:?}", condition.evaluate(features)))
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
        ("user_role in ['admin', 'owner'] and age in [30, 31]", "True"),
        ("user_role not in ['admin', 'owner']", "False"),
        ("age in 31..32 and not age in 30..31", "True"),
        ("image_bytes < 1_000_000 and image_bytes > 3_999.5", "True"),
        ("hour in 22..6", "True"),
        ("hour('Asia/Shanghai') in 22..6", "False"),
        ("hour('Asia/Shanghai') == 6 and weekday('Asia/Shanghai') == 'sun' and weekday in ['sat']", "True"),
        ("time >= date '2026-11-21T22:30:00Z' and time < date '2026-11-22T06:30:00.001+08:00'", "True"),
        ("joined < date '2026-05-01T08:00:01Z' and joined >= date '2026-05-01T08:00:00Z'", "True"),
        ("app_version < semver '2.3.0' and attributes.app_version >= semver '2.3.0-alpha'", "True"),
        ("app_version == semver '2.3.0-rc.1+build.7'", "True"),
        ("source_ip in cidr '10.0.0.0/8'", "True"),
        ("source_ip in cidr ['192.168.0.0/16', '10.20.30.40']", "True"),
        ("source_ip not in cidr ['192.168.0.0/16', '2001:db8::/32']", "True"),
        ("text contains 'birds' and text contains ['casino', 'Casino']", "True"),
        ("text contains 'casino'", "False"),
        ("text matches '(?i)\\bcasino\\b' and text starts_with 'two' and text ends_with 'beach'", "True"),
        ("text == 'two birds' and text != 'three birds' and not text != 'two birds'", "True"),
        ("request_id starts_with ['q', 'r']", "True"),
        ("attributes['app-version'] == semver '1.2.0' and attributes[\"user_role\"] == 'admin'", "True"),
        ("attributes['用户'] == 'a'", "Missing(\"用户\")"),
        ("mapped_ip in cidr '::ffff:10.0.0.0/104' and mapped_ip in cidr '10.0.0.0/8'", "True"),
        ("text != 'two birds'", "False"),
        ("text not in ['two birds', 'three']", "False"),
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
    for (source, missing) in [
        ("age == 'old'", "age"),
        ("user_role < 7", "user_role"),
        ("user_role >= semver '1.0.0'", "user_role"),
        ("not user_role in cidr '10.0.0.0/8'", "user_role"),
        ("user_role < date '2026-01-01T00:00:00Z'", "user_role"),
        ("age contains '3'", "age"),
        ("vip in [1, 2]", "vip"),
        ("key == 'k' or caption contains 'c'", "key"),
    ] {
        assert_eq!(truth(source), format!("Missing({missing:?})"), "{source}: another type counts as missing");
    }
    assert_eq!(truth("region not in ['cn'] or region != 'eu'"), r#"Missing("region")"#);
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
        "region in []",
        "region in ['a', 7]",
        "region in [true]",
        "text_length in ['a']",
        "text_length in 20..10",
        "hour in 22..25",
        "hour('Mars/Olympus') < 3",
        "image_width('UTC') < 3",
        "weekday == 'monday'",
        "weekday < 'tue'",
        "time > '2026-11-21'",
        "time > date '2026-11-21'",
        "app_version > semver '2.3'",
        "source_ip in cidr ['10.0.0.0/8', '10.0.0.0/99']",
        "text matches '(unclosed'",
        "text matches 'a{1000}{1000}'",
        "text contains ''",
        "text_length contains 'a'",
        "text has 'a'",
        "captoin == 'a'",
        "hour in 22-6",
        "hour in 22 to 6",
        "hour in 22..",
        "age in 1",
        "age > -",
        "age == 2.",
        "app_version > 2.3.0",
        "app_version > '2.3.0'",
        "app-version == '1'",
        "attributes[''] == 'a'",
        "hour == 24",
        "hour in 22..-1",
        "image_format == 'jpg'",
        "image_format == semver '1.0.0'",
        "weekday in cidr '10.0.0.0/8'",
        "region == '华东' xor a == 1",
        "region == 'cn'\txor a == 1",
        "region == 'cn'\n  and text_lenght < 20\n  or vip == true",
    ];
    let mut shown: Vec<String> =
        sources.iter().map(|source| Condition::parse(source).unwrap_err().to_string()).collect();
    let long = format!("{}vip = true{}", "vip == true or ".repeat(20), " or vip == true".repeat(20));
    shown.push(Condition::parse(&long).unwrap_err().to_string());
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn of_several_texts_any_will_do_and_one_that_cannot_be_asked_leaves_it_open_only_where_none_does() {
    let truth = |source: &str, texts: &[&str]| {
        let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
        let condition = Condition::parse(source).unwrap();
        with_features(|features| format!("{:?}", condition.evaluate(&Features { texts: &texts, ..*features })))
    };
    assert_eq!(truth("text >= semver '1.0.0'", &["hello", "1.2.0"]), "True");
    assert_eq!(truth("text >= semver '1.0.0'", &["0.9.0", "hello"]), "Missing(\"text\")");
    assert_eq!(truth("text >= semver '1.0.0'", &["0.9.0", "0.1.0"]), "False");
    assert_eq!(truth("text != 'a'", &["b", "c"]), "True", "none is");
    assert_eq!(truth("text != 'a'", &["a", "b"]), "False");
}

#[test]
fn the_reason_names_the_comparison_that_decides_and_the_value_it_met() {
    let why = |source: &str| with_features(|features| Condition::parse(source).unwrap().why_not(features));
    let sources = [
        "text_length < 20 and image_resolution < 128",
        "image_resolution < 128 or user_role == 'guest'",
        "not user_role == 'admin'",
        "user_role != 'admin'",
        "age not in [30, 31]",
        "not user_role != 'guest'",
        "region == 'cn' and vip == true",
        "user_role < 7",
        "text contains 'tiger'",
        "hour('Asia/Shanghai') in 22..6",
    ];
    let shown: Vec<String> = sources.iter().map(|source| format!("{source}\n    {}", why(source))).collect();
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn nesting_within_the_bound_is_read_and_beyond_it_refused() {
    let nested = |depth: usize| format!("{}vip == true{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(truth(&nested(NESTING_MAX)), "True");
    let error = Condition::parse(&nested(NESTING_MAX + 1)).unwrap_err();
    assert_eq!(error.span, NESTING_MAX..NESTING_MAX + 1);
    assert_eq!(truth(&format!("{}vip == true", "not ".repeat(900))), "True");
    assert_eq!(truth(&format!("text contains '{}' or vip == true", "(".repeat(200))), "True");
    let long = format!("vip == true{}", " or vip == true".repeat(300));
    assert!(Condition::parse(&long).unwrap_err().to_string().contains("longer than"));
}

proptest::proptest! {
    #[test]
    fn whatever_is_written_is_read_or_refused_with_a_place_inside_it(source in "[a-z_.'()\\[\\]<>=! 0-9,]{0,60}") {
        if let Err(error) = Condition::parse(&source) {
            let says = !error.reason.is_empty() && !error.reason.contains("expected ,") && !error.reason.contains("expected  ");
            proptest::prop_assert!(error.span.start <= source.len() && says, "{error}");
        }
    }
}
