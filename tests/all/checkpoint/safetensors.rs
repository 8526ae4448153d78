//! Files of tensors: what is written can be read, here and elsewhere, and no file does harm.

use std::collections::HashMap;

use linformer::Error;
use linformer::checkpoint::Tensors;
use linformer::ndarray::{Array1, ArrayD, IxDyn, arr0, array};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// A file of this header and these numbers.
pub fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// A file of one tensor `x`.
pub fn one(dtype: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let header = format!(
        r#"{{"x":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[0,{}]}}}}"#,
        data.len()
    );
    file(&header, data)
}

pub fn reason(bytes: &[u8]) -> String {
    match Tensors::<f32>::from_bytes(bytes) {
        Err(Error::Malformed { reason }) => reason,
        other => panic!("expected a malformed file, got {other:?}"),
    }
}

pub fn sample() -> Tensors<f32> {
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
