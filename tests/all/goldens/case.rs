//! One golden file: what went into the peer's model and what came out.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use linformer::checkpoint::Tensors;
use linformer::ndarray::{Array2, Array3, ArrayD, Ix2, Ix3, IxDyn};
use linformer::{PaddingMask, Scalar};
use serde_json::{Map, Value};

/// What a peer's module makes of a case.
pub enum Outcome {
    /// The model's output, in the axes' order of the file.
    Output(ArrayD<f64>),
    /// The loader refuses an option by name.
    Refused(String),
    /// Any other error.
    Failed(String),
    /// Something that the crate does not have yet, and what it is.
    Later(&'static str),
}

/// One golden file. Whatever is read of it is noted, so that an input or a key that a model was not given does not pass unseen.
pub struct Case {
    pub name: String,
    content: Map<String, Value>,
    read: RefCell<BTreeSet<String>>,
    further: RefCell<Vec<(String, ArrayD<f64>)>>,
}

impl Case {
    pub fn open(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let content = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        Self {
            name,
            content,
            read: RefCell::default(),
            further: RefCell::default(),
        }
    }

    pub fn peer(&self) -> &str {
        self.key("peer").as_str().expect("`peer` is a string")
    }

    /// The peer's options.
    pub fn config(&self) -> Value {
        self.key("config").clone()
    }

    /// Whether the options name this one.
    pub fn has_option(&self, option: &str) -> bool {
        self.key("config").get(option).is_some()
    }

    /// The state dict.
    pub fn tensors<A: Scalar>(&self) -> Tensors<A> {
        let entries = self.key("state_dict").as_object().expect("`state_dict` is an object");
        let mut tensors = Tensors::new();
        for (name, value) in entries {
            let (shape, data) = numbers(name, value);
            tensors.insert(name, array(name, &shape, data)).expect("names in an object differ");
        }
        tensors
    }

    pub fn has_input(&self, name: &str) -> bool {
        self.input_value(name).is_some()
    }

    /// An input of any shape.
    pub fn input<A: Scalar>(&self, name: &str) -> ArrayD<A> {
        let (shape, data) = self.input_numbers(name);
        array(name, &shape, data)
    }

    /// An input with three axes.
    pub fn array3<A: Scalar>(&self, name: &str) -> Array3<A> {
        self.input(name).into_dimensionality::<Ix3>().expect("three axes")
    }

    /// Token ids.
    pub fn tokens(&self, name: &str) -> Array2<usize> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // they are small and not negative
        let ids = self.input::<f64>(name).mapv(|id| id as usize);
        ids.into_dimensionality::<Ix2>().expect("two axes")
    }

    /// The lengths of the items, a plain list.
    pub fn lengths(&self, name: &str) -> Vec<usize> {
        self.read.borrow_mut().insert(format!("inputs.{name}"));
        let list = self.input_value(name).and_then(Value::as_array).expect("a list of lengths");
        let length = |length: &Value| usize::try_from(length.as_u64().expect("a length")).expect("a short length");
        list.iter().map(length).collect()
    }

    /// A mask that is true (1) at real tokens.
    pub fn mask(&self, name: &str) -> PaddingMask {
        let real = self.input::<f64>(name).mapv(|value| value != 0.0);
        PaddingMask::from_bools(&real.into_dimensionality::<Ix2>().expect("two axes"))
    }

    pub fn has(&self, key: &str) -> bool {
        self.content.contains_key(key)
    }

    /// A top-level key as it is.
    pub fn key(&self, key: &str) -> &Value {
        self.read.borrow_mut().insert(key.to_owned());
        self.content
            .get(key)
            .unwrap_or_else(|| panic!("{}: there is no `{key}`", self.name))
    }

    /// The tensor under a top-level key, `E.0` say, or under a name in one: `gradients/to_q.weight`.
    pub fn tensor<A: Scalar>(&self, key: &str) -> ArrayD<A> {
        let value = match key.split_once('/') {
            Some((key, name)) => &self.key(key)[name],
            None => self.key(key),
        };
        let (shape, data) = numbers(key, value);
        array(key, &shape, data)
    }

    /// All top-level keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.content.keys().map(String::as_str)
    }

    /// Another output, to be compared with the tensor under this top-level key.
    pub fn also(&self, key: &str, output: ArrayD<f64>) {
        self.further.borrow_mut().push((key.to_owned(), output));
    }

    /// Gradients under the peer's names, and those of the inputs, to be compared with the file's. Those of single precision are not.
    pub fn trained<A: Scalar>(&self, gradients: &Tensors<A>, inputs: &[(&str, &Array3<A>)]) {
        if A::NAME != f64::NAME {
            return;
        }
        for name in self.key("gradients").as_object().expect("`gradients` is an object").keys() {
            let gradient = gradients
                .get(name)
                .unwrap_or_else(|| panic!("{}: no gradient of `{name}`", self.name));
            self.also(&format!("gradients/{name}"), gradient.mapv(A::widen));
        }
        for (key, gradient) in inputs.iter().filter(|(key, _)| self.has(key)) {
            self.also(key, gradient.mapv(A::widen).into_dyn());
        }
    }

    /// The tensor of this name in step `index`.
    pub fn step_tensor(&self, index: usize, name: &str) -> ArrayD<f64> {
        let (shape, data) = numbers(name, &self.key("steps")[index][name]);
        array(name, &shape, data)
    }

    /// Panics unless loss, norm and weights after a step are the file's: to 1e-9 in double precision, to 1e-4 in single.
    pub fn stepped<A: Scalar>(&self, index: usize, loss: f64, norm: f64, weights: &Tensors<A>) {
        let bound = if A::NAME == f64::NAME { 1e-9 } else { 1e-4 };
        let step = &self.key("steps")[index];
        for (key, value) in [("loss", loss), ("gradient_norm", norm)] {
            let expected = step[key]
                .as_f64()
                .unwrap_or_else(|| panic!("{}: step {index} has no {key}", self.name));
            assert!(
                (value - expected).abs() <= bound,
                "{}: {key} of step {index} is {value}, not {expected}",
                self.name
            );
        }
        let expected = step["state_dict"].as_object().expect("`state_dict` is an object");
        assert_eq!(expected.len(), weights.len(), "{}: step {index} has other tensors", self.name);
        for (name, value) in expected {
            let (shape, data) = numbers(name, value);
            let expected: ArrayD<f64> = array(name, &shape, data);
            let weights = weights.get(name).unwrap_or_else(|| panic!("{}: no `{name}`", self.name));
            let wrong = weights
                .iter()
                .zip(&expected)
                .map(|(a, b)| (a.widen() - b).abs())
                .fold(0.0, f64::max);
            assert!(wrong <= bound, "{}: `{name}` after step {index} is {wrong:e} off", self.name);
        }
    }

    /// The gradient of the output: the loss is the sum of the output's elements, times these.
    pub fn output_gradient<A: Scalar>(&self) -> Array3<A> {
        self.tensor("output_gradient").into_dimensionality::<Ix3>().expect("three axes")
    }

    pub fn take_further(&self) -> Vec<(String, ArrayD<f64>)> {
        self.further.take()
    }

    /// Inputs and keys that nothing has read and that are not in `known`.
    pub fn unread(&self, known: &[&str]) -> Vec<String> {
        let read = self.read.borrow();
        let inputs = self.content.get("inputs").and_then(Value::as_object).into_iter().flatten();
        let inputs = inputs.map(|(name, _)| format!("inputs.{name}"));
        let keys = self.keys().filter(|key| !known.contains(key)).map(str::to_owned);
        inputs.chain(keys).filter(|key| !read.contains(key)).collect()
    }

    fn input_value(&self, name: &str) -> Option<&Value> {
        self.content.get("inputs").and_then(|inputs| inputs.get(name))
    }

    fn input_numbers(&self, name: &str) -> (Vec<usize>, Vec<f64>) {
        self.read.borrow_mut().insert(format!("inputs.{name}"));
        let value = self.input_value(name);
        numbers(name, value.unwrap_or_else(|| panic!("{}: there is no input `{name}`", self.name)))
    }
}

/// The shape and the numbers of `{shape, dtype, data}`.
fn numbers(name: &str, value: &Value) -> (Vec<usize>, Vec<f64>) {
    let list = |key: &str| value[key].as_array().unwrap_or_else(|| panic!("`{name}` has no {key}"));
    let dtype = value["dtype"].as_str();
    assert!(matches!(dtype, Some("f64" | "i64" | "bool")), "`{name}` has dtype {dtype:?}");
    let size = |size: &Value| usize::try_from(size.as_u64().expect("a size")).expect("a small size");
    let number = |number: &Value| match number {
        Value::Bool(flag) => f64::from(u8::from(*flag)),
        _ => number.as_f64().unwrap_or_else(|| panic!("`{name}` holds {number}")),
    };
    (list("shape").iter().map(size).collect(), list("data").iter().map(number).collect())
}

fn array<A: Scalar>(name: &str, shape: &[usize], data: Vec<f64>) -> ArrayD<A> {
    let data = data.into_iter().map(A::cast).collect();
    ArrayD::from_shape_vec(IxDyn(shape), data).unwrap_or_else(|error| panic!("`{name}`: {error}"))
}

/// Panics unless a writer gave back what its loader was given, but for the names that `dropped` accepts.
pub fn assert_written<A: Scalar>(case: &Case, written: &Tensors<A>, read: &Tensors<A>, dropped: impl Fn(&str) -> bool) {
    let kept: Vec<&str> = read.names().filter(|name| !dropped(name)).collect();
    let again: Vec<&str> = written.names().filter(|name| !dropped(name)).collect();
    assert_eq!(again, kept, "{}: the writer gives other names", case.name);
    for name in kept {
        assert_eq!(written.get(name), read.get(name), "{}: the writer changed `{name}`", case.name);
    }
}
