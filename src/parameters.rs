//! A model as a tree of named tensors in a fixed order.
//!
//! Everything that walks over parameters (counting, zeroing, saving, loading, stepping) goes through [`Parameters::visit`] and
//! [`Parameters::visit_mut`], which one macro writes for a struct from the list of its fields.

use std::collections::BTreeMap;

use ndarray::{Array, ArrayViewD, ArrayViewMutD, Dimension};

use crate::parallel;
use crate::scalar::Scalar;
use crate::summary::Summary;

/// What training may do with a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Learned: it has a gradient.
    Trainable,
    /// Fixed, but saved with the model (a random projection, say): no gradient, no moments, no decay.
    Buffer,
}

/// What [`Parameters::visit`] calls for each tensor: its name, its role, and a view of it.
pub type Visitor<'f, 'a, A> = dyn FnMut(&str, Role, ArrayViewD<'a, A>) + 'f;

/// What [`Parameters::visit_mut`] calls for each tensor: its name, its role, and a view of it that may be written.
pub type VisitorMut<'f, 'a, A> = dyn FnMut(&str, Role, ArrayViewMutD<'a, A>) + 'f;

/// A tree of named tensors in a fixed order.
///
/// Names are the paths of the fields: `blocks.3.attention.query.weight`. A tensor that several places share is visited once, at its owner.
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

    /// All tensors with their names, in order.
    fn named(&self) -> Vec<(String, ArrayViewD<'_, A>)> {
        let mut all = Vec::new();
        self.visit("", &mut |name, _, tensor| all.push((name.to_owned(), tensor)));
        all
    }

    /// The number of trainable elements; shared tensors count once, buffers not at all.
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

    /// A value of the same shape with 0 everywhere: where gradients and moments are kept.
    #[must_use]
    fn zeros_like(&self) -> Self
    where
        Self: Clone,
    {
        let mut zeros = self.clone();
        zeros.set_zero();
        zeros
    }

    /// Makes every tensor 0 everywhere, buffers too: gradients before the next step. The tensors are spread over the caller's rayon pool.
    fn set_zero(&mut self) {
        let mut tensors = Vec::new();
        self.visit_mut("", &mut |_, _, tensor| tensors.push(tensor));
        let elements = tensors.iter().map(ndarray::ArrayBase::len).sum();
        parallel::for_each(tensors, elements, |mut tensor| tensor.fill(A::zero()));
    }

    /// Adds `factor` · `other` to every trainable tensor. Tensors are matched by order; both values must come from one configuration.
    fn scaled_add(&mut self, factor: A, other: &Self) {
        let mut others = Vec::new();
        other.visit("", &mut |_, _, tensor| others.push(tensor));
        let mut others = others.into_iter();
        self.visit_mut("", &mut |_, role, mut tensor| {
            if let Some(other) = others.next()
                && role == Role::Trainable
                && other.shape() == tensor.shape()
            {
                tensor.scaled_add(factor, &other);
            }
        });
    }
}

/// Copies every tensor of `from` to the one in `to` that has its name and its shape; the others stay.
pub(crate) fn copy_namesakes<A: Scalar>(from: &impl Parameters<A>, to: &mut impl Parameters<A>) {
    let tensors: BTreeMap<String, ArrayViewD<'_, A>> = from.named().into_iter().collect();
    to.visit_mut("", &mut |name, _, mut own| {
        if let Some(tensor) = tensors.get(name).filter(|tensor| tensor.shape() == own.shape()) {
            own.assign(tensor);
        }
    });
}

/// `path` and `field`, joined by a dot.
pub(crate) fn join(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
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

/// Implements [`Parameters`] for a struct generic over its element type, from the list of its fields that hold tensors.
///
/// Fields after `flat` are visited under the struct's own path; those after `derived` are forgotten when the others may be written.
macro_rules! parameters {
    ($type:ident { $($field:ident),* $(,)? } $(flat { $($flat:ident),* })? $(derived { $($derived:ident),* })?) => {
        impl<A: $crate::scalar::Scalar> $crate::parameters::Parameters<A> for $type<A> {
            fn visit<'a>(&'a self, path: &str, visitor: &mut $crate::parameters::Visitor<'_, 'a, A>) {
                $($($crate::parameters::Parameters::visit(&self.$flat, path, visitor);)*)?
                $($crate::parameters::Parameters::visit(
                    &self.$field, &$crate::parameters::join(path, stringify!($field)), visitor);)*
            }

            fn visit_mut<'a>(&'a mut self, path: &str, visitor: &mut $crate::parameters::VisitorMut<'_, 'a, A>) {
                $($(self.$derived.forget();)*)?
                $($($crate::parameters::Parameters::visit_mut(&mut self.$flat, path, visitor);)*)?
                $($crate::parameters::Parameters::visit_mut(
                    &mut self.$field, &$crate::parameters::join(path, stringify!($field)), visitor);)*
            }
        }
    };
}
pub(crate) use parameters;
