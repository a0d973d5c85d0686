//! The demo's contact sheet: every picture with its text, what it should be called and what it was called.

use std::fmt::Write as _;

use serde_json::Value;

use super::collect::{Gathered, Numbered};
use crate::message::{Label, Verdict};

const HEAD: &str = r#"<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>ofa-stream demo</title><style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 24px; color: #222; background: #fff }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 14px }
figure { margin: 0; border: 1px solid #ccc; border-top: 6px solid #999; border-radius: 4px; padding: 8px }
figure.right { border-top-color: #1a7f4b } figure.wrong { border-top-color: #c2410c }
img { width: 100%; image-rendering: pixelated; background: #eee }
figcaption b { font-weight: 600 } small { color: #666 } p { margin: 4px 0 }
</style></head><body>
"#;

/// The page, which needs nothing beside it: pictures are inside.
pub(super) fn html(requests: &[Numbered], gathered: &Gathered) -> String {
    let mut page = HEAD.to_owned();
    let known = gathered.expected.iter().filter_map(|(number, label)| Some((gathered.verdicts.get(number)?, label)));
    let (mut right, mut all) = (0, 0);
    known.for_each(|(verdict, label)| {
        all += 1;
        right += usize::from(verdict.result == *label);
    });
    writeln!(
        page,
        "<h1>What the demo was asked</h1><p>{right} of {all} verdicts are what the picture shows.</p><main>"
    )
    .ok();
    for (number, request) in requests {
        let Some(verdict) = gathered.verdicts.get(number) else { continue };
        let payload: Value = serde_json::from_slice(request.payload.as_deref().unwrap_or_default()).unwrap_or_default();
        figure(&mut page, &payload, verdict, gathered.expected.get(number).copied());
    }
    page.push_str("</main></body></html>\n");
    page
}

fn figure(page: &mut String, request: &Value, verdict: &Verdict, expected: Option<Label>) {
    let class = match expected {
        Some(label) if label == verdict.result => "right",
        Some(_) => "wrong",
        None => "unknown",
    };
    let image = request["image"]["base64"].as_str().unwrap_or_default();
    // Base64 is letters, digits and three signs: whatever else a file has in its place stays out of the page.
    let image: String =
        image.chars().filter(|letter| letter.is_ascii_alphanumeric() || "+/=".contains(*letter)).collect();
    let kind = if image.starts_with("/9j/") {
        "jpeg"
    } else if image.starts_with("UklG") {
        "webp"
    } else {
        "png"
    };
    let text = match &request["text"] {
        Value::Array(texts) => texts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" · "),
        other => other.as_str().unwrap_or_default().to_owned(),
    };
    let should = expected.map_or(String::new(), |label| format!("should be <b>{}</b>, ", label.as_str()));
    let variant = verdict.ab_variant.as_deref().unwrap_or(&verdict.route.reason);
    writeln!(
        page,
        "<figure class=\"{class}\"><img alt=\"\" src=\"data:image/{kind};base64,{image}\"><figcaption><p>{}</p>\
         <p>{should}is called <b>{}</b>, {:.0} %</p><small>{} · {} · {}</small></figcaption></figure>",
        escaped(&text),
        verdict.result.as_str(),
        verdict.confidence * 100.0,
        escaped(&verdict.request_id),
        escaped(&verdict.model_version),
        escaped(variant),
    )
    .ok();
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_users_wrote_is_shown_and_not_run() {
        assert_eq!(escaped("<script>\"a\" & b"), "&lt;script&gt;&quot;a&quot; &amp; b");
    }
}
