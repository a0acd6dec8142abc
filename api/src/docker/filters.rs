//! The `filters` query parameter: `{"key":{"value":true}}` or `{"key":["value"]}`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::error::ApiError;

/// More values than this in one request are refused.
const MAX_VALUES: usize = 4096;

/// Filter values by key. Values of one key are alternatives, keys must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Parses both encodings; an empty text is no filter.
    ///
    /// # Errors
    ///
    /// 400 `invalid filter` for anything else.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let bad = || ApiError::bad_request("invalid filter");
        let Ok(Value::Object(map)) = serde_json::from_str::<Value>(text) else {
            return Err(bad());
        };
        let (mut filters, mut count) = (BTreeMap::new(), 0);
        for (key, value) in map {
            let values: Vec<String> = match value {
                Value::Object(inner) => {
                    if inner.values().any(|v| !v.is_boolean()) {
                        return Err(bad());
                    }
                    inner
                        .into_iter()
                        .filter(|(_, on)| on == &Value::Bool(true))
                        .map(|(v, _)| v)
                        .collect()
                }
                Value::Array(list) => list
                    .into_iter()
                    .map(|v| match v {
                        Value::String(s) => Ok(s),
                        _ => Err(bad()),
                    })
                    .collect::<Result<_, _>>()?,
                Value::Null => Vec::new(),
                _ => return Err(bad()),
            };
            count += values.len();
            if count > MAX_VALUES {
                return Err(bad());
            }
            if !values.is_empty() {
                filters.insert(key, values);
            }
        }
        Ok(Self(filters))
    }

    /// Refuses keys that the answer cannot filter by.
    ///
    /// # Errors
    ///
    /// 400 ``invalid filter '<key>'``.
    pub fn only(&self, known: &[&str]) -> Result<(), ApiError> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(ApiError::bad_request(format!("invalid filter '{key}'"))),
            None => Ok(()),
        }
    }

    /// Whether no filter was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `key` was given.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The values of `key`.
    pub fn values(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Adds a value, as the old single-purpose query parameters do.
    pub fn add(&mut self, key: &str, value: impl Into<String>) {
        self.0.entry(key.to_owned()).or_default().push(value.into());
    }

    /// Whether `key` is absent or one of its values satisfies `test`.
    pub fn any(&self, key: &str, mut test: impl FnMut(&str) -> bool) -> bool {
        self.0
            .get(key)
            .is_none_or(|values| values.iter().any(|v| test(v)))
    }

    /// Whether `key` is absent or one of its values is `text`.
    pub fn exact(&self, key: &str, text: &str) -> bool {
        self.any(key, |value| value == text)
    }

    /// Whether all `label` values (`k` or `k=v`) are among `labels`.
    pub fn labels<'a>(&self, key: &str, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.values(key)
            .iter()
            .all(|wanted| match wanted.split_once('=') {
                Some((k, v)) => label(k) == Some(v),
                None => label(wanted).is_some(),
            })
    }

    /// The one boolean of `key`.
    ///
    /// # Errors
    ///
    /// 400 ``invalid filter '<key>=[<v>]'`` for anything but one boolean.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, ApiError> {
        match self.values(key) {
            [] => Ok(None),
            [one] if matches!(one.as_str(), "1" | "true") => Ok(Some(true)),
            [one] if matches!(one.as_str(), "0" | "false") => Ok(Some(false)),
            all => Err(ApiError::bad_request(format!(
                "invalid filter '{key}=[{}]'",
                all.join(" ")
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_encodings_mean_the_same() {
        let map =
            Filters::parse(r#"{"label":{"a=b":true},"status":{"exited":true}}"#).expect("map");
        let list = Filters::parse(r#"{"label":["a=b"],"status":["exited"]}"#).expect("list");
        assert_eq!(map, list);
        assert!(Filters::parse("").expect("empty").is_empty());
        assert!(Filters::parse("{}").expect("empty").is_empty());
    }

    #[test]
    fn errors_name_the_filter() {
        let one = Filters::parse(r#"{"bad":["x"],"dangling":["maybe"]}"#).expect("parsed");
        assert_eq!(
            one.only(&["dangling"]).expect_err("unknown").message(),
            "invalid filter 'bad'"
        );
        assert_eq!(
            one.boolean("dangling").expect_err("no boolean").message(),
            "invalid filter 'dangling=[maybe]'"
        );
        for text in [
            "x",
            "[]",
            "3",
            r#"{"a":3}"#,
            r#"{"a":[3]}"#,
            r#"{"a":{"b":"c"}}"#,
        ] {
            assert_eq!(
                Filters::parse(text).expect_err(text).message(),
                "invalid filter"
            );
        }
    }

    #[test]
    fn all_labels_must_hold() {
        let filters = Filters::parse(r#"{"label":["a","b=c"]}"#).expect("parsed");
        let with = |have: &'static [(&'static str, &'static str)]| {
            filters.labels("label", |k| {
                have.iter().find(|(key, _)| *key == k).map(|(_, v)| *v)
            })
        };
        assert!(with(&[("a", ""), ("b", "c")]));
        assert!(!with(&[("a", ""), ("b", "d")]));
        assert!(!with(&[("b", "c")]));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,200}") {
            let _ = Filters::parse(&text);
        }

        #[test]
        fn the_encodings_agree(keys in proptest::collection::btree_map("[a-z]{1,5}", proptest::collection::btree_set("[ -~]{0,8}", 1..4), 0..4)) {
            let list = serde_json::to_string(&keys).expect("json");
            let map: BTreeMap<_, BTreeMap<_, bool>> =
                keys.iter().map(|(k, vs)| (k, vs.iter().map(|v| (v, true)).collect())).collect();
            let map = serde_json::to_string(&map).expect("json");
            prop_assert_eq!(Filters::parse(&list).expect("list"), Filters::parse(&map).expect("map"));
        }
    }
}
