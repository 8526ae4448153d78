//! Where the numbers of a parameter are while a model is loaded: in the tensors that were read, not in a copy of them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use ndarray::{ArcArray, ArrayViewMutD, Axis, IxDyn, Slice};
use safetensors::Dtype;

use super::Tensors;
use super::codec::native_dtype;
use crate::scalar::Scalar;

/// A tensor whose numbers are freed when the last that shares them is dropped.
pub(crate) type SharedArray<A> = ArcArray<A, IxDyn>;

/// Some rows of a tensor.
pub(crate) fn rows_of<A: Scalar>(tensor: &SharedArray<A>, rows: Range<usize>) -> SharedArray<A> {
    let mut tensor = tensor.clone();
    tensor.slice_axis_inplace(Axis(0), Slice::from(rows));
    tensor
}

/// The same numbers in another shape; `None` where they are more or fewer.
pub(crate) fn reshaped<A: Scalar>(tensor: &SharedArray<A>, shape: &[usize]) -> Option<SharedArray<A>> {
    let tensor = if tensor.is_standard_layout() {
        tensor.clone()
    } else {
        tensor.as_standard_layout().into_owned().into_shared()
    };
    tensor.into_shape_with_order(shape).ok()
}

/// The numbers of a parameter, as one tensor or as several that follow each other.
#[derive(Debug)]
pub(crate) struct Source<A> {
    parts: Vec<SharedArray<A>>,
    join: Join,
    /// The type stored in the file.
    pub(super) dtype: Dtype,
}

#[derive(Clone, Copy, Debug)]
enum Join {
    /// One part alone.
    One,
    /// One after the other along the first axis.
    Rows,
    /// Along a new first axis.
    Stack,
}

impl<A: Scalar> Source<A> {
    pub(crate) fn one(tensor: SharedArray<A>) -> Self {
        Self::new(vec![tensor], Join::One)
    }

    /// Tensors one after the other along their first axis, in which alone they may differ; `None` where they differ in another.
    pub(crate) fn rows(parts: Vec<SharedArray<A>>) -> Option<Self> {
        let inner = |part: &SharedArray<A>| part.shape().get(1..).map(<[usize]>::to_vec);
        let first = parts.first().and_then(inner)?;
        let agree = parts.iter().all(|part| inner(part).as_ref() == Some(&first));
        agree.then(|| Self::new(parts, Join::Rows))
    }

    /// Tensors of one shape along a new first axis; `None` where they differ.
    pub(crate) fn stack(parts: Vec<SharedArray<A>>) -> Option<Self> {
        let first = parts.first()?.shape().to_vec();
        let agree = parts.iter().all(|part| part.shape() == first);
        agree.then(|| Self::new(parts, Join::Stack))
    }

    fn new(parts: Vec<SharedArray<A>>, join: Join) -> Self {
        let dtype = native_dtype::<A>();
        Self { parts, join, dtype }
    }

    pub(crate) fn shape(&self) -> Vec<usize> {
        let first = self.parts[0].shape();
        match self.join {
            Join::One => first.to_vec(),
            Join::Rows => {
                let rows = self.parts.iter().map(|part| part.len_of(Axis(0))).sum();
                [&[rows], &first[1..]].concat()
            }
            Join::Stack => [&[self.parts.len()], first].concat(),
        }
    }

    /// Copies the numbers to a parameter of this [`shape`](Self::shape).
    pub(crate) fn copy_to(&self, mut parameter: ArrayViewMutD<'_, A>) {
        match self.join {
            Join::One => parameter.assign(&self.parts[0]),
            Join::Rows => {
                let mut start = 0;
                for part in &self.parts {
                    let end = start + part.len_of(Axis(0));
                    parameter.slice_axis_mut(Axis(0), Slice::from(start..end)).assign(part);
                    start = end;
                }
            }
            Join::Stack => {
                for (mut row, part) in parameter.outer_iter_mut().zip(&self.parts) {
                    row.assign(part);
                }
            }
        }
    }
}

/// The numbers of all parameters, by name.
#[derive(Debug)]
pub(crate) struct Sources<A> {
    pub(super) by_name: BTreeMap<String, Source<A>>,
    /// Names that a file gives to tensors in addition to those they are stored under.
    pub(super) aliases: BTreeMap<String, String>,
}

impl<A: Scalar> Sources<A> {
    pub(crate) fn new() -> Self {
        Self {
            by_name: BTreeMap::new(),
            aliases: BTreeMap::new(),
        }
    }

    /// The tensors under their own names. Where they are given away, each is freed as soon as it has been copied.
    pub(crate) fn of(tensors: Cow<'_, Tensors<A>>) -> Self {
        let mut sources = Self::new();
        sources.aliases = tensors.aliases().map(|(alias, name)| (alias.to_owned(), name.to_owned())).collect();
        for (name, dtype, values) in Tensors::into_shared(tensors) {
            let source = Source {
                dtype,
                ..Source::one(values)
            };
            sources.by_name.insert(name, source);
        }
        sources
    }

    /// The name under which the numbers of the parameter `name` are stored.
    pub(super) fn stored_name<'s>(&'s self, name: &'s str) -> Option<&'s str> {
        if self.by_name.contains_key(name) {
            return Some(name);
        }
        self.aliases.get(name).map(String::as_str)
    }
}
