//! A model as a tree of named tensors in a fixed order.
//!
//! Everything that walks over parameters (counting, zeroing, saving, loading, stepping) goes through [`Parameters::visit`] and
//! [`Parameters::visit_mut`], which one macro writes for a struct from the list of its fields.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{Array, ArrayViewD, ArrayViewMutD, Dimension};

use crate::error::{Error, Result};
use crate::parallel;
use crate::scalar::Scalar;
use crate::summary::Summary;

/// Whether training changes a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Learned: it has a gradient.
    Trainable,
    /// Fixed, but saved with the model (a random projection, say): no gradient, no moments, no decay.
    Buffer,
}

/// The function that [`Parameters::visit`] calls for each tensor, with its name, its role, and a view of it.
pub type Visitor<'f, 'a, A> = dyn FnMut(&str, Role, ArrayViewD<'a, A>) + 'f;

/// The function that [`Parameters::visit_mut`] calls for each tensor, with its name, its role, and a view that may be written.
pub type VisitorMut<'f, 'a, A> = dyn FnMut(&str, Role, ArrayViewMutD<'a, A>) + 'f;

/// A tree of named tensors in a fixed order: a layer, a model, or gradients of one.
///
/// Names are the paths of the fields: `blocks.3.attention.query.weight`. A tensor that several places share is visited once, at its owner.
/// The macro [`parameters!`](crate::parameters!) implements the trait for user-defined structs; optimizers, files, clipping, accumulation and ranks
/// then take them like the models of this crate.
///
/// ```
/// use linformer::{Linear, Parameters};
///
/// let layer = Linear::<f32>::new(3, 2, true, 0)?;
/// let names: Vec<String> = layer.named().into_iter().map(|(name, _)| name).collect();
/// assert_eq!(names, ["weight", "bias"]);
/// assert_eq!(layer.parameter_count(), 2 * 3 + 2);
/// # Ok::<(), linformer::Error>(())
/// ```
pub trait Parameters<A: Scalar> {
    /// Calls `visitor` for every tensor, in order, with `path` and a dot before its name (no dot where `path` is empty).
    fn visit<'a>(&'a self, path: &str, visitor: &mut Visitor<'_, 'a, A>);

    /// [`visit`](Self::visit) with the right to write. Shapes cannot be changed this way.
    fn visit_mut<'a>(&'a mut self, path: &str, visitor: &mut VisitorMut<'_, 'a, A>);

    /// Returns all tensors with their names, in order.
    fn named(&self) -> Vec<(String, ArrayViewD<'_, A>)> {
        let mut all = Vec::new();
        self.visit("", &mut |name, _, tensor| all.push((name.to_owned(), tensor)));
        all
    }

    /// Returns all tensors with their names, in order, to be written. Shapes cannot be changed this way.
    ///
    /// Whatever a layer has computed from its tensors, such as packed weights, it recomputes after this.
    ///
    /// ```
    /// use linformer::ndarray::array;
    /// use linformer::{Linear, Parameters};
    ///
    /// let mut layer = Linear::<f32>::new(2, 1, true, 0)?;
    /// for (name, mut tensor) in layer.named_mut() {
    ///     tensor.fill(if name == "bias" { 5.0 } else { 1.0 });
    /// }
    /// assert_eq!(layer.forward(&array![[[2.0, 3.0]]])?, array![[[10.0]]]);
    /// # Ok::<(), linformer::Error>(())
    /// ```
    fn named_mut(&mut self) -> Vec<(String, ArrayViewMutD<'_, A>)> {
        let mut all = Vec::new();
        self.visit_mut("", &mut |name, _, tensor| all.push((name.to_owned(), tensor)));
        all
    }

    /// Returns the number of trainable elements; shared tensors count once, buffers not at all.
    fn parameter_count(&self) -> usize {
        let mut count = 0;
        self.visit("", &mut |_, role, tensor| {
            if role == Role::Trainable {
                count += tensor.len();
            }
        });
        count
    }

    /// Returns a table of the layers, the shapes of their tensors and their parameter counts.
    fn summary(&self) -> Summary {
        Summary::of(self)
    }

    /// Returns a value of the same shape with 0 everywhere, to which gradients can be added.
    #[must_use]
    fn zeros_like(&self) -> Self
    where
        Self: Clone,
    {
        let mut zeros = self.clone();
        zeros.set_zero();
        zeros
    }

    /// Sets every tensor to 0, buffers too: gradients before the next step. The tensors are spread over the caller's rayon pool.
    fn set_zero(&mut self) {
        let mut tensors = Vec::new();
        self.visit_mut("", &mut |_, _, tensor| tensors.push(tensor));
        let elements = tensors.iter().map(ndarray::ArrayBase::len).sum();
        parallel::for_each(tensors, elements, |mut tensor| tensor.fill(A::zero()));
    }

    /// Adds `factor` · `other` to every trainable tensor.
    ///
    /// # Errors
    /// Returns an error, and changes nothing, unless both values have the same tensors: names, roles and shapes.
    fn scaled_add(&mut self, factor: A, other: &Self) -> Result<()>
    where
        Self: Sized,
    {
        if let Some(difference) = difference(self, other) {
            return Err(Error::argument("Parameters::scaled_add", difference));
        }
        let mut others = Vec::new();
        other.visit("", &mut |_, _, tensor| others.push(tensor));
        let mut others = others.into_iter();
        self.visit_mut("", &mut |_, role, mut tensor| {
            if let (Some(other), Role::Trainable) = (others.next(), role) {
                tensor.scaled_add(factor, &other);
            }
        });
        Ok(())
    }

    /// Gives every tensor, buffers too, the value of the tensor of `other` that has its name and its shape, and returns which were taken. The others
    /// stay as they are: a warm start of one model from another.
    ///
    /// ```
    /// use linformer::{Classifier, ClassifierConfig, EncoderConfig, LanguageModel, LanguageModelConfig, LinformerConfig, Parameters};
    ///
    /// let config = LanguageModelConfig::new(100, EncoderConfig::new(LinformerConfig::new(8, 2, 16, 4), 1));
    /// let trained = LanguageModel::<f32>::new(&config, 0)?;
    /// let mut classifier = Classifier::<f32>::new(&ClassifierConfig::tokens(config, 3), 1)?;
    /// let copied = classifier.copy_matching(&trained);
    /// assert!(copied.taken.contains(&"embedding.weight".to_owned()));
    /// assert_eq!(copied.missing, ["output.weight", "output.bias"]);
    /// assert_eq!(copied.unused, ["head.bias", "head.weight"]);
    /// # Ok::<(), linformer::Error>(())
    /// ```
    fn copy_matching(&mut self, other: &impl Parameters<A>) -> Copied
    where
        Self: Sized,
    {
        copy_tensors(&other.named().into_iter().collect(), self)
    }
}

/// Says what the first tensor of `other` that is not like its counterpart should be; `None` if all have the same names, roles and shapes.
pub(crate) fn difference<A: Scalar>(own: &impl Parameters<A>, other: &impl Parameters<A>) -> Option<String> {
    let mut expected = Vec::new();
    own.visit("", &mut |name, role, tensor| {
        expected.push((name.to_owned(), role, tensor.shape().to_vec()));
    });
    let mut expected = expected.into_iter();
    let mut problem = None;
    other.visit("", &mut |name, role, tensor| {
        if problem.is_some() {
            return;
        }
        let found = format!("`{name}` {:?} ({role:?})", tensor.shape());
        problem = match expected.next() {
            Some((own, own_role, shape)) if own == name && own_role == role && shape == tensor.shape() => None,
            Some((own, role, shape)) => Some(format!("the next tensor must be `{own}` {shape:?} ({role:?}), but is {found}")),
            None => Some(format!("there must be no more tensors, but there is {found}")),
        };
    });
    problem.or_else(|| expected.next().map(|(name, ..)| format!("the tensor `{name}` is missing")))
}

/// Which tensors a model took over from another one; see [`Parameters::copy_matching`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copied {
    /// The names of the tensors that were taken.
    pub taken: Vec<String>,
    /// The names of the model's tensors that the other one does not have.
    pub missing: Vec<String>,
    /// The names of the tensors that have another shape there.
    pub other_shape: Vec<String>,
    /// The names of the other one's tensors that the model does not have.
    pub unused: Vec<String>,
}

/// Copies every tensor of `from` to the one of `to` that has its name and its shape.
pub(crate) fn copy_tensors<A: Scalar>(from: &BTreeMap<String, ArrayViewD<'_, A>>, to: &mut impl Parameters<A>) -> Copied {
    let mut copied = Copied::default();
    let mut unused: BTreeSet<&str> = from.keys().map(String::as_str).collect();
    to.visit_mut("", &mut |name, _, mut own| {
        unused.remove(name);
        let names = match from.get(name) {
            None => &mut copied.missing,
            Some(tensor) if tensor.shape() != own.shape() => &mut copied.other_shape,
            Some(tensor) => {
                own.assign(tensor);
                &mut copied.taken
            }
        };
        names.push(name.to_owned());
    });
    copied.unused = unused.into_iter().map(str::to_owned).collect();
    copied
}

/// `path` and `field`, joined by a dot.
pub(crate) fn join(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
}

/// Returns the path of a field, for `parameters!` in other crates.
#[doc(hidden)]
pub fn field_path(path: &str, field: &str) -> String {
    join(path, field)
}

impl<A: Scalar, D: Dimension> Parameters<A> for Array<A, D> {
    fn visit<'a>(&'a self, path: &str, visitor: &mut Visitor<'_, 'a, A>) {
        visitor(path, Role::Trainable, self.view().into_dyn());
    }

    fn visit_mut<'a>(&'a mut self, path: &str, visitor: &mut VisitorMut<'_, 'a, A>) {
        visitor(path, Role::Trainable, self.view_mut().into_dyn());
    }
}

impl<A: Scalar, T: Parameters<A>> Parameters<A> for Option<T> {
    fn visit<'a>(&'a self, path: &str, visitor: &mut Visitor<'_, 'a, A>) {
        if let Some(inner) = self {
            inner.visit(path, visitor);
        }
    }

    fn visit_mut<'a>(&'a mut self, path: &str, visitor: &mut VisitorMut<'_, 'a, A>) {
        if let Some(inner) = self {
            inner.visit_mut(path, visitor);
        }
    }
}

impl<A: Scalar, T: Parameters<A>> Parameters<A> for Vec<T> {
    fn visit<'a>(&'a self, path: &str, visitor: &mut Visitor<'_, 'a, A>) {
        for (index, inner) in self.iter().enumerate() {
            inner.visit(&join(path, &index.to_string()), visitor);
        }
    }

    fn visit_mut<'a>(&'a mut self, path: &str, visitor: &mut VisitorMut<'_, 'a, A>) {
        for (index, inner) in self.iter_mut().enumerate() {
            inner.visit_mut(&join(path, &index.to_string()), visitor);
        }
    }
}

/// Implements [`Parameters`] for a struct, from the list of its fields that hold tensors: arrays, layers, models, or an `Option` or `Vec` of them.
///
/// The other fields, such as configurations, are left out of the list. Tensors are visited in the order of the list, and named after the fields.
///
/// ```
/// use linformer::ndarray::Array1;
/// use linformer::{Encoder, EncoderConfig, LinformerConfig, Linear, Parameters, parameters};
///
/// /// Generic over its element type.
/// #[derive(Clone)]
/// struct Tagger<A> {
///     encoder: Encoder<A>,
///     heads: Vec<Linear<A>>,
///     scale: Option<Array1<A>>,
///     name: String,
/// }
///
/// parameters!(Tagger { encoder, heads, scale });
///
/// /// Of one element type.
/// #[derive(Clone)]
/// struct Probe {
///     tagger: Tagger<f64>,
///     output: Linear<f64>,
/// }
///
/// parameters!(Probe: f64 { tagger, output });
///
/// let encoder = Encoder::new(&EncoderConfig::new(LinformerConfig::new(8, 2, 16, 4), 1), 0)?;
/// let heads = vec![Linear::new(8, 3, false, 1)?, Linear::new(8, 3, false, 2)?];
/// let tagger = Tagger { encoder, heads, scale: Some(Array1::ones(3)), name: "mine".into() };
/// let probe = Probe { tagger, output: Linear::new(3, 1, true, 3)? };
/// let names: Vec<String> = probe.named().into_iter().map(|(name, _)| name).collect();
/// assert!(names.contains(&"tagger.heads.1.weight".to_owned()));
/// assert_eq!(names.last().unwrap(), "output.bias");
/// # Ok::<(), linformer::Error>(())
/// ```
///
/// Fields in a second list, `flat { … }`, are visited under the path of the struct itself, so that their tensors' names lack the name of the field;
/// they must not be those of other tensors. Fields in a third, `derived { … }`, are not tensors: their method `forget(&mut self)` is called before
/// the tensors are handed out to be written, so that what was computed from them cannot be stale.
///
/// An enum whose variants hold one value each is visited as the value that it holds: `parameters!(enum Mine { First, Second })`.
#[macro_export]
macro_rules! parameters {
    (enum $type:ident { $($variant:ident),+ $(,)? }) => {
        impl<A: $crate::Scalar> $crate::Parameters<A> for $type<A> {
            fn visit<'a>(&'a self, path: &str, visitor: &mut $crate::Visitor<'_, 'a, A>) {
                match self {
                    $(Self::$variant(inner) => $crate::Parameters::visit(inner, path, visitor),)+
                }
            }

            fn visit_mut<'a>(&'a mut self, path: &str, visitor: &mut $crate::VisitorMut<'_, 'a, A>) {
                match self {
                    $(Self::$variant(inner) => $crate::Parameters::visit_mut(inner, path, visitor),)+
                }
            }
        }
    };
    ($type:ident { $($fields:tt)* } $($lists:tt)*) => {
        impl<A: $crate::Scalar> $crate::Parameters<A> for $type<A> {
            $crate::parameters!(@body A { $($fields)* } $($lists)*);
        }
    };
    ($type:ty: $scalar:ident { $($fields:tt)* } $($lists:tt)*) => {
        impl $crate::Parameters<$scalar> for $type {
            $crate::parameters!(@body $scalar { $($fields)* } $($lists)*);
        }
    };
    (@body $scalar:ident { $($field:ident),* $(,)? } $(flat { $($flat:ident),* $(,)? })? $(derived { $($derived:ident),* $(,)? })?) => {
        fn visit<'a>(&'a self, path: &str, visitor: &mut $crate::Visitor<'_, 'a, $scalar>) {
            $($($crate::Parameters::visit(&self.$flat, path, visitor);)*)?
            $($crate::Parameters::visit(&self.$field, &$crate::field_path(path, stringify!($field)), visitor);)*
        }

        fn visit_mut<'a>(&'a mut self, path: &str, visitor: &mut $crate::VisitorMut<'_, 'a, $scalar>) {
            $($(self.$derived.forget();)*)?
            $($($crate::Parameters::visit_mut(&mut self.$flat, path, visitor);)*)?
            $($crate::Parameters::visit_mut(&mut self.$field, &$crate::field_path(path, stringify!($field)), visitor);)*
        }
    };
}
pub(crate) use parameters;
