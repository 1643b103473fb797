// SPDX-License-Identifier: MIT OR Apache-2.0
//! `script`: what to send and what must come.

use super::super::context::Depends;
use super::super::limits::CHECK_SCRIPT_STEPS_MAX;
use super::super::reader::Reader;
use super::super::value::Value;
use super::super::{BytePattern, ScriptStep};
use super::{Kind, pattern};

/// Reads the steps; `None` inside if the type has none.
pub(super) fn read(reader: &Reader<'_, '_>, kind: Option<Kind>) -> Option<Option<Vec<ScriptStep>>> {
    let value = reader.own("script");
    match (value, kind) {
        (Some(value), None | Some(Kind::Script)) => steps(&value).map(Some),
        (Some(value), Some(_)) => {
            value.error_with_others("only for type \"script\"");
            None
        }
        (None, Some(Kind::Script)) => {
            let example = "script = [{ send = \"PING\\r\\n\" }, { expect = \"+PONG\" }]";
            reader.required(None, "script", example);
            None
        }
        (None, _) => Some(None),
    }
}

fn steps(value: &Value<'_, '_>) -> Option<Vec<ScriptStep>> {
    let entries = value.list();
    if entries.len() > CHECK_SCRIPT_STEPS_MAX {
        value.error_without_text(format!("must be at most {CHECK_SCRIPT_STEPS_MAX} steps"));
        return None;
    }
    let steps: Vec<_> = entries.iter().map(|entry| entry.table().and_then(step)).collect();
    steps.into_iter().collect::<Option<Vec<_>>>().filter(|steps| !steps.is_empty())
}

fn step(reader: Reader<'_, '_>) -> Option<ScriptStep> {
    let text = |value: Value<'_, '_>| pattern::bytes(&value, value.string()?.as_bytes().to_vec());
    let expected = |bytes| ScriptStep::Expect(BytePattern::Bytes(bytes));
    let found: Vec<Option<ScriptStep>> = [
        reader.own("send").map(|value| text(value).map(ScriptStep::Send)),
        reader.own("send-hex").map(|value| pattern::hex(&value).map(ScriptStep::Send)),
        reader.own("expect").map(|value| text(value).map(expected)),
        reader.own("expect-hex").map(|value| pattern::hex(&value).map(expected)),
        reader.own("expect-regex").map(|value| {
            let text = value.string()?;
            pattern::regex(&value, text).map(ScriptStep::Expect)
        }),
    ]
    .into_iter()
    .flatten()
    .collect();
    if found.len() != 1 {
        let text = "a step is one of send, send-hex, expect, expect-hex and expect-regex";
        reader.error(Depends::OnItself, text.into());
    }
    reader.finish();
    match <[Option<ScriptStep>; 1]>::try_from(found) {
        Ok([step]) => step,
        Err(_) => None,
    }
}
