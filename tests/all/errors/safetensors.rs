//! Bytes that are no file of tensors.

use crate::checkpoint::safetensors::{file, one, reason, sample};
use linformer::Error;
use linformer::checkpoint::Tensors;
use linformer::ndarray::arr0;

#[test]
fn a_truncated_file_is_refused_at_every_length() {
    let bytes = sample().to_bytes().unwrap();
    for len in 0..bytes.len() {
        reason(&bytes[..len]);
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(reason(&longer).contains("follow the header"));
}

#[test]
fn a_header_longer_than_the_file_is_refused() {
    for claimed in [1 << 60, u64::MAX, u64::MAX - 7, 101] {
        let mut bytes = u64::to_le_bytes(claimed).to_vec();
        bytes.extend_from_slice(&[b' '; 100]);
        assert!(reason(&bytes).contains(&format!("claims {claimed} bytes")));
    }
    let mut bytes = (17_u64 << 20).to_le_bytes().to_vec();
    bytes.resize(8 + (17 << 20), b' ');
    assert!(reason(&bytes).contains("limit"));
}

#[test]
fn names_come_once() {
    let tensor = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let twice = |first: &str, second: &str| reason(&file(&format!(r#"{{"{first}":{tensor},"{second}":{tensor}}}"#), &[0; 4]));
    assert!(twice("a", "a").contains("two tensors are named `a`"));
    assert!(twice("a", "\\u0061").contains("two tensors are named `a`"));
    assert!(reason(&file(r#"{"__metadata__":{},"__metadata__":{}}"#, &[])).contains("duplicate"));
    assert!(reason(&file(r#"{"__metadata__":{"a":"b","a":"c"}}"#, &[])).contains("comes twice"));
    let twice = r#"{"x":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    assert!(reason(&file(twice, &[0; 4])).contains("tensor `x`: duplicate field"));

    let mut tensors = sample();
    assert!(tensors.insert("scalar", arr0(1.0).into_dyn()).is_err());
    assert!(tensors.insert("__metadata__", arr0(1.0).into_dyn()).is_err());
    assert_eq!(tensors.len(), 4);
}

#[test]
fn tensors_neither_overlap_nor_leave_gaps() {
    let two = |first: (usize, usize), second: (usize, usize), len: usize| {
        let entry = |(start, end): (usize, usize)| format!(r#"{{"dtype":"U8","shape":[2],"data_offsets":[{start},{end}]}}"#);
        let header = format!(r#"{{"a":{},"b":{}}}"#, entry(first), entry(second));
        Tensors::<f32>::from_bytes(&file(&header, &vec![0; len])).map_err(|error| error.to_string())
    };
    assert!(two((0, 2), (2, 4), 4).is_ok());
    assert!(two((2, 4), (0, 2), 4).is_ok());
    assert!(two((0, 2), (1, 3), 3).unwrap_err().contains("within another tensor"));
    assert!(two((0, 2), (0, 2), 2).unwrap_err().contains("within another tensor"));
    assert!(two((0, 2), (3, 5), 5).unwrap_err().contains("after a gap"));
    assert!(two((1, 3), (3, 5), 5).unwrap_err().contains("after a gap"));
    assert!(two((0, 2), (2, 4), 5).unwrap_err().contains("5 bytes follow"));
    assert!(two((0, 2), (2, 4), 3).unwrap_err().contains("3 bytes follow"));
    assert!(two((0, 2), (2, 3), 3).unwrap_err().contains("takes 2 bytes"));
    assert!(two((2, 0), (2, 4), 4).is_err());
    assert!(two((0, 2), (2, usize::MAX), 4).is_err());
}

#[test]
fn shapes_that_overflow_are_refused() {
    let max = usize::MAX;
    for shape in [
        vec![max, 2],
        vec![max / 2, 2, 2],
        vec![1 << 32, 1 << 32],
        vec![max],
        vec![0, max, 2],
        vec![max, 0, max],
    ] {
        assert!(reason(&one("U8", &shape, &[])).contains("memory cannot address"), "{shape:?}");
    }
    assert!(reason(&one("F32", &[1 << 40], &[0; 4])).contains("takes"));
    assert!(Tensors::<f32>::from_bytes(&one("F32", &[0, 1 << 40], &[])).is_ok());
    let many_axes = Tensors::<f32>::from_bytes(&one("F32", &vec![1; 500], &[0; 4])).unwrap();
    assert_eq!(many_axes.get("x").unwrap().ndim(), 500);
}

#[test]
fn headers_of_another_form_are_refused() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let headers = [
        "",
        "[]",
        "null",
        "{",
        "{} {}",
        "{\"x\":1}",
        "{\"x\":{}}",
        "{\"x\":[]}",
        "{\"\\ud800\":1}",
        "{\"__metadata__\":1}",
        "{\"__metadata__\":{\"a\":1}}",
        r#"{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        r#"{"x":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}"#,
        r#"{"x":{"dtype":"F32","shape":[1e3],"data_offsets":[0,4]}}"#,
        r#"{"x":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,4]}}"#,
        r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}"#,
        r#"{"x":{"dtype":7,"shape":[1],"data_offsets":[0,4]}}"#,
        &format!(r#"{{"x":{deep}}}"#),
        &format!(r#"{{"x":{{"dtype":{deep}}}}}"#),
        &format!(r#"{{"__metadata__":{deep}}}"#),
    ];
    for header in headers {
        reason(&file(header, &[0; 4]));
    }
    let mut not_utf8 = file(r#"{"x":1}"#, &[]);
    not_utf8[10] = 0xff;
    reason(&not_utf8);
    assert!(Tensors::<f32>::from_bytes(&file("{}", &[])).unwrap().is_empty());
    assert!(
        Tensors::<f32>::from_bytes(&file(r#"{"__metadata__":null}"#, &[]))
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_missing_file_is_named() {
    let error = Tensors::<f32>::read("/no/such/file").unwrap_err();
    assert!(matches!(&error, Error::Io { action: "open", path, .. } if path.ends_with("file")));
    assert!(error.to_string().contains("/no/such/file"));
    assert!(matches!(
        Tensors::<f32>::read(std::env::temp_dir()),
        Err(Error::Io { .. } | Error::Malformed { .. })
    ));
}
