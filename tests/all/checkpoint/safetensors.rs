//! Files of tensors: what is written can be read, here and elsewhere, and no file does harm.

use std::collections::HashMap;

use linformer::Error;
use linformer::checkpoint::Tensors;
use linformer::ndarray::{Array1, ArrayD, IxDyn, arr0, array};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// A file of this header and these numbers.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// A file of one tensor `x`.
fn one(dtype: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let header = format!(
        r#"{{"x":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[0,{}]}}}}"#,
        data.len()
    );
    file(&header, data)
}

fn reason(bytes: &[u8]) -> String {
    match Tensors::<f32>::from_bytes(bytes) {
        Err(Error::Malformed { reason }) => reason,
        other => panic!("expected a malformed file, got {other:?}"),
    }
}

fn sample() -> Tensors<f32> {
    let mut tensors = Tensors::new();
    tensors.insert("scalar", arr0(2.5).into_dyn()).unwrap();
    tensors.insert("empty", ArrayD::zeros(IxDyn(&[0, 3]))).unwrap();
    tensors
        .insert("matrix", array![[1.0, f32::NAN], [f32::INFINITY, -0.0]].into_dyn())
        .unwrap();
    tensors
        .insert("transposed", array![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]].reversed_axes().into_dyn())
        .unwrap();
    tensors.set_metadata("format", "pt");
    tensors.set_metadata("note", "a \"quoted\" ü");
    tensors
}

#[test]
fn what_is_written_is_read() {
    let tensors = sample();
    let bytes = tensors.to_bytes().unwrap();
    let read = Tensors::<f32>::from_bytes(&bytes).unwrap();
    assert_eq!(read.names().collect::<Vec<_>>(), tensors.names().collect::<Vec<_>>());
    assert_eq!(read.metadata(), tensors.metadata());
    for name in tensors.names() {
        let (written, read) = (tensors.get(name).unwrap(), read.get(name).unwrap());
        assert_eq!(written.shape(), read.shape(), "{name}");
        assert!(written.iter().zip(read).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
    }
    assert_eq!(read.to_bytes().unwrap(), bytes);
}

#[test]
fn the_same_tensors_give_the_same_bytes() {
    let first = sample().to_bytes().unwrap();
    for _ in 0..20 {
        assert_eq!(sample().to_bytes().unwrap(), first);
    }
}

#[test]
fn the_safetensors_crate_reads_what_is_written() {
    let bytes = sample().to_bytes().unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(read.len(), 4);
    let view = read.tensor("transposed").unwrap();
    assert_eq!((view.dtype(), view.shape()), (Dtype::F32, [3, 2].as_slice()));
    let numbers: Vec<f32> = view.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    assert_eq!(numbers, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    let (header, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header % 8, 0);
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
}

#[test]
fn what_the_safetensors_crate_writes_is_read() {
    let (wide, narrow) = ([1_u8; 16], [2_u8; 6]);
    let views = vec![
        ("narrow", TensorView::new(Dtype::BF16, vec![3], &narrow).unwrap()),
        ("wide", TensorView::new(Dtype::F64, vec![1, 2], &wide).unwrap()),
    ];
    let metadata = HashMap::from([("a".to_owned(), "b".to_owned())]);
    let read = Tensors::<f64>::from_bytes(&safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
    assert_eq!(read.metadata()["a"], "b");
    assert_eq!((read.dtype("narrow"), read.dtype("wide")), (Some("BF16"), Some("F64")));
    assert_eq!(read.get("wide").unwrap(), ArrayD::from_elem(vec![1, 2], f64::from_le_bytes([1; 8])));
}

#[test]
fn every_dtype_becomes_the_element_type() {
    let read = |dtype: &str, shape: &[usize], data: &[u8]| {
        let tensors = Tensors::<f32>::from_bytes(&one(dtype, shape, data)).unwrap();
        assert_eq!(tensors.dtype("x"), Some(dtype));
        tensors.get("x").unwrap().iter().copied().collect::<Vec<_>>()
    };
    assert_eq!(read("F64", &[1], &0.1_f64.to_le_bytes()), [0.1]);
    assert_eq!(read("F32", &[1], &0.1_f32.to_le_bytes()), [0.1]);
    assert_eq!(
        read("F16", &[3], &[0x00, 0x3c, 0x01, 0x00, 0x00, 0xfc]),
        [1.0, 5.960_464_5e-8, f32::NEG_INFINITY]
    );
    assert_eq!(read("BF16", &[2], &[0x80, 0x3f, 0x49, 0xc0]), [1.0, -3.140_625]);
    assert_eq!(read("I64", &[1], &(-3_i64).to_le_bytes()), [-3.0]);
    assert_eq!(read("I32", &[1], &(-3_i32).to_le_bytes()), [-3.0]);
    assert_eq!(read("I16", &[1], &(-3_i16).to_le_bytes()), [-3.0]);
    assert_eq!(read("I8", &[2], &[0xff, 0x7f]), [-1.0, 127.0]);
    assert_eq!(read("U64", &[1], &u64::MAX.to_le_bytes()), [1.844_674_4e19]);
    assert_eq!(read("U32", &[1], &3_u32.to_le_bytes()), [3.0]);
    assert_eq!(read("U16", &[1], &3_u16.to_le_bytes()), [3.0]);
    assert_eq!(read("U8", &[2], &[0, 255]), [0.0, 255.0]);
    assert_eq!(read("BOOL", &[2], &[0, 1]), [0.0, 1.0]);
    assert_eq!(Tensors::<f32>::new().dtype("x"), None);
    assert!(reason(&one("F8_E4M3", &[1], &[0])).contains("tensor `x` has the dtype F8_E4M3"));
    assert!(reason(&one("F3", &[1], &[0])).contains("tensor `x`: unknown variant `F3`"));
}

#[test]
fn numbers_are_read_at_any_alignment() {
    for padding in 0..8 {
        let header = format!(
            r#"{{"x":{{"dtype":"F64","shape":[1],"data_offsets":[1,9]}},"b":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}{}"#,
            " ".repeat(padding)
        );
        let mut data = vec![7];
        data.extend_from_slice(&1.25_f64.to_le_bytes());
        let tensors = Tensors::<f64>::from_bytes(&file(&header, &data)).unwrap();
        assert_eq!(tensors.get("x").unwrap()[[0]].to_bits(), 1.25_f64.to_bits());
    }
}

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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_tensors_survive(shapes in prop::collection::btree_map("[a-zA-Z_.0-9é\"\\\\ ]{0,8}", prop::collection::vec(0..4_usize, 0..4), 0..6), seed: u32) {
        let mut tensors = Tensors::<f32>::new();
        let mut bits = seed;
        for (name, shape) in &shapes {
            let numbers = Array1::from_shape_fn(shape.iter().product::<usize>(), |_| {
                bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f32::from_bits(bits)
            });
            tensors.insert(name, numbers.into_shape_with_order(shape.as_slice()).unwrap()).unwrap();
        }
        let bytes = tensors.to_bytes().unwrap();
        let read = Tensors::<f32>::from_bytes(&bytes).unwrap();
        prop_assert_eq!(read.to_bytes().unwrap(), bytes);
        let read: Vec<_> = read.names().map(|name| (name.to_owned(), read.get(name).unwrap().shape().to_vec())).collect();
        prop_assert_eq!(read, shapes.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), position in 0..200_usize, flip: u8) {
        let _ = Tensors::<f32>::from_bytes(&bytes);
        let mut changed = sample().to_bytes().unwrap();
        let position = position % changed.len();
        changed[position] ^= flip;
        if let Ok(tensors) = Tensors::<f64>::from_bytes(&changed) {
            prop_assert!(tensors.to_bytes().is_ok());
        }
    }
}
