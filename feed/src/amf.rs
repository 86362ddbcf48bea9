//! AMF0: the values of RTMP's commands. Read with bounds, written as far as a server needs.

/// How deep values may lie in each other.
const DEPTH_MAX: u32 = 4;
/// Values in one message.
const VALUES_MAX: usize = 256;

/// A value.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    Number(f64),
    Bool(bool),
    Text(String),
    /// An object or an associative array.
    Object(Vec<(String, Value)>),
    /// Null, undefined, and what nobody here needs to tell apart.
    Null,
}

impl Value {
    pub(crate) fn text(&self) -> Option<&str> {
        if let Value::Text(text) = self { Some(text) } else { None }
    }

    pub(crate) fn number(&self) -> Option<f64> {
        if let Value::Number(number) = self { Some(*number) } else { None }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        let Value::Object(fields) = self else { return None };
        fields.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }
}

/// All values of a message; None if they are none.
pub(crate) fn read(mut bytes: &[u8]) -> Option<Vec<Value>> {
    let (mut values, mut budget) = (Vec::new(), VALUES_MAX);
    while !bytes.is_empty() {
        values.push(value(&mut bytes, 0, &mut budget)?);
    }
    Some(values)
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

fn number(bytes: &mut &[u8], len: usize) -> Option<usize> {
    Some(take(bytes, len)?.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte)))
}

fn text(bytes: &mut &[u8], len_len: usize) -> Option<String> {
    let len = number(bytes, len_len)?;
    Some(String::from_utf8_lossy(take(bytes, len)?).into_owned())
}

fn value(bytes: &mut &[u8], depth: u32, budget: &mut usize) -> Option<Value> {
    *budget = budget.checked_sub(1)?;
    if depth > DEPTH_MAX {
        return None;
    }
    Some(match take(bytes, 1)?[0] {
        0 => Value::Number(f64::from_be_bytes(*take(bytes, 8)?.first_chunk()?)),
        1 => Value::Bool(take(bytes, 1)?[0] != 0),
        2 => Value::Text(text(bytes, 2)?),
        3 => object(bytes, depth, budget)?,
        5 | 6 => Value::Null,
        8 => {
            take(bytes, 4)?; // How many there may be; they end like an object.
            object(bytes, depth, budget)?
        }
        10 => {
            for _ in 0..number(bytes, 4)? {
                value(bytes, depth + 1, budget)?;
            }
            Value::Null
        }
        11 => {
            take(bytes, 10)?;
            Value::Null
        }
        12 => Value::Text(text(bytes, 4)?),
        _ => return None,
    })
}

fn object(bytes: &mut &[u8], depth: u32, budget: &mut usize) -> Option<Value> {
    let mut fields = Vec::new();
    loop {
        let name = text(bytes, 2)?;
        if name.is_empty() && bytes.first() == Some(&9) {
            take(bytes, 1)?;
            return Some(Value::Object(fields));
        }
        fields.push((name, value(bytes, depth + 1, budget)?));
    }
}

/// Appends values.
pub(crate) fn write(out: &mut Vec<u8>, values: &[Value]) {
    for value in values {
        match value {
            Value::Number(number) => {
                out.push(0);
                out.extend(number.to_be_bytes());
            }
            Value::Bool(is_true) => out.extend([1, u8::from(*is_true)]),
            Value::Text(text) => {
                out.push(2);
                write_name(out, text);
            }
            Value::Object(fields) => {
                out.push(3);
                for (name, value) in fields {
                    write_name(out, name);
                    write(out, std::slice::from_ref(value));
                }
                out.extend([0, 0, 9]);
            }
            Value::Null => out.push(5),
        }
    }
}

/// A name of 65,535 bytes at most; ours are words.
fn write_name(out: &mut Vec<u8>, name: &str) {
    out.extend((name.len() as u16).to_be_bytes());
    out.extend(name.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_read_as_they_were_written() {
        let fields = vec![("app".into(), Value::Text("live".into())), ("on".into(), Value::Bool(true))];
        let values = [Value::Text("connect".into()), Value::Number(1.0), Value::Object(fields), Value::Null];
        let mut bytes = Vec::new();
        write(&mut bytes, &values);
        let read = read(&bytes).unwrap();
        assert_eq!(read, values);
        assert_eq!(read[2].get("app").and_then(Value::text), Some("live"));
        for len in 1..bytes.len() {
            // Cut between two values it is a shorter list.
            assert!(super::read(&bytes[..len]).is_none_or(|values| values.len() < 4), "{len}");
        }
    }

    #[test]
    fn what_lies_too_deep_or_is_too_much_is_refused() {
        let deep = [3, 0, 1, b'a'].repeat(10);
        assert_eq!(read(&deep), None);
        assert_eq!(read(&[5; VALUES_MAX + 1]), None);
        assert_eq!(read(&[10, 255, 255, 255, 255, 5, 5]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_values_or_none(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }
}
