//! Tensors by name.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};
use std::path::Path;

use ndarray::{ArrayD, ArrayViewD};
use safetensors::Dtype;

use super::codec::{known, native_dtype};
use super::contents::{Contents, read_header, read_tensor};
use super::file::{failed, open};
use super::header::{METADATA, malformed};
use super::source::SharedArray;
use super::{index, kind};
use crate::error::{Error, Result};
use crate::scalar::Scalar;

/// Tensors by name, in the order of their names: what is read from a safetensors file or written to one.
///
/// A file may store numbers as F64, F32, F16, BF16, as integers or as BOOL; all become `A`, rounded where they must be.
/// [`dtype`](Self::dtype) returns their stored type. They are written as `A` is: F32 or F64.
///
/// ```
/// use linformer::checkpoint::Tensors;
/// use linformer::ndarray::array;
///
/// let mut tensors = Tensors::<f32>::new();
/// tensors.insert("weight", array![[1.0, 2.0], [3.0, 4.0]].into_dyn())?;
/// tensors.set_metadata("format", "pt");
/// let bytes = tensors.to_bytes()?;
///
/// let read = Tensors::<f64>::from_bytes(&bytes)?;
/// assert_eq!(read.get("weight").unwrap(), array![[1.0, 2.0], [3.0, 4.0]].into_dyn());
/// assert_eq!(read.dtype("weight"), Some("F32"));
/// assert_eq!(read.metadata()["format"], "pt");
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Tensors<A = f32> {
    tensors: BTreeMap<String, Tensor<A>>,
    metadata: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
struct Tensor<A> {
    /// The type stored in the file.
    dtype: Dtype,
    /// Loading a model shares it instead of copying it.
    values: SharedArray<A>,
}

impl<A: Scalar> Tensors<A> {
    /// Creates an empty set of tensors.
    pub fn new() -> Self {
        Self {
            tensors: BTreeMap::new(),
            metadata: BTreeMap::new(),
        }
    }

    /// Reads a safetensors file, without holding more of it in memory than its tensors.
    ///
    /// Where `path` is that of an index (`model.safetensors.index.json`), reads all the parts that it lists, which are beside it. Their
    /// metadata are put together; where they differ, the first part counts.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or is not a valid safetensors file (those of other formats are named), or has a dtype other
    /// than those above. For an index, also if a part is missing, is not in the same folder, or does not have the tensors that the index says
    /// it has, and no others.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (mut input, len) = open(path)?;
        let start = input.fill_buf().map_err(|source| failed("read", path, source))?;
        if kind::is_json(start) {
            return index::read(input, len, path);
        }
        Self::from_reader(&mut input, len, &|source| failed("read", path, source))
    }

    /// Reads one file, which is not an index.
    pub(super) fn read_one(path: &Path) -> Result<Self> {
        let (mut input, len) = open(path)?;
        Self::from_reader(&mut input, len, &|source| failed("read", path, source))
    }

    /// Reads what a safetensors file consists of.
    ///
    /// # Errors
    /// Returns an error if the bytes are not a valid safetensors file (those of other formats are named), or have a dtype other than those above.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut input = bytes;
        Self::from_reader(&mut input, bytes.len() as u64, &|error| malformed(error.to_string()))
    }

    fn from_reader(input: &mut impl Read, len: u64, failed: &dyn Fn(io::Error) -> Error) -> Result<Self> {
        let header = read_header(input, len, failed)?;
        let mut tensors = Self::new();
        for (name, info) in header.tensors {
            let values = read_tensor(input, &name, &info, failed)?;
            tensors.insert_as(name, info.dtype, values.into_shared())?;
        }
        tensors.metadata = header.metadata;
        Ok(tensors)
    }

    /// Writes a safetensors file. The same tensors and metadata give the same bytes.
    ///
    /// It is written to a temporary file in the same directory and renamed: whatever happens, there is a whole file at `path`, the
    /// old one or the new one. A symbolic link is replaced, not followed.
    ///
    /// # Errors
    /// Returns an error if the file or directory cannot be written, or if a header has no room for so many or such long names.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        self.contents()?.save(path.as_ref())
    }

    /// Returns the bytes that [`write`](Self::write) writes.
    ///
    /// # Errors
    /// Returns an error if a header has no room for so many or such long names.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        Ok(self.contents()?.to_bytes())
    }

    fn contents(&self) -> Result<Contents<'_, A>> {
        let views = self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.values.view()));
        Contents::new(views.collect(), self.metadata.clone())
    }

    /// Adds a tensor.
    ///
    /// # Errors
    /// Returns an error if the name is taken, or if it is `__metadata__`, which the format reserves.
    pub fn insert(&mut self, name: impl Into<String>, tensor: ArrayD<A>) -> Result<()> {
        self.insert_as(name.into(), native_dtype::<A>(), tensor.into_shared())
    }

    /// Adds a tensor as a file stored it.
    pub(super) fn insert_as(&mut self, name: String, dtype: Dtype, values: SharedArray<A>) -> Result<()> {
        if name == METADATA {
            return Err(malformed(format!("no tensor can be named `{METADATA}`")));
        }
        if self.tensors.contains_key(&name) {
            return Err(malformed(format!("two tensors are named `{name}`")));
        }
        self.tensors.insert(name, Tensor { dtype, values });
        Ok(())
    }

    /// Adds all tensors and metadata entries, except for keys that are set here already.
    pub(super) fn take_all(&mut self, other: Self) -> Result<()> {
        for (name, Tensor { dtype, values }) in other.tensors {
            self.insert_as(name, dtype, values)?;
        }
        for (key, value) in other.metadata {
            self.metadata.entry(key).or_insert(value);
        }
        Ok(())
    }

    pub(crate) fn take_metadata(&mut self, metadata: BTreeMap<String, String>) {
        self.metadata = metadata;
    }

    /// Returns the tensor of this name.
    ///
    /// A name that [`metadata`](Self::metadata) gives as another one of a tensor finds that tensor: so `safetensors.torch.save_model` writes
    /// tensors that a model has under several names.
    pub fn get(&self, name: &str) -> Option<ArrayViewD<'_, A>> {
        self.tensor(name).map(|tensor| tensor.values.view())
    }

    /// The tensor of this name, to be shared, and what it was stored as.
    pub(super) fn shared(&self, name: &str) -> Option<(SharedArray<A>, Dtype)> {
        self.tensor(name).map(|tensor| (tensor.values.clone(), tensor.dtype))
    }

    fn tensor(&self, name: &str) -> Option<&Tensor<A>> {
        self.tensors.get(self.stored_name(name)?)
    }

    /// The name under which the tensor `name` is stored.
    pub(super) fn stored_name<'s>(&'s self, name: &'s str) -> Option<&'s str> {
        if self.tensors.contains_key(name) {
            return Some(name);
        }
        let stored = self.metadata.get(name)?;
        self.tensors.contains_key(stored).then_some(stored)
    }

    /// The names that tensors have in addition to those they are stored under, and these.
    pub(super) fn aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        let names = self.metadata.keys().filter(|name| !self.tensors.contains_key(*name));
        names.filter_map(|name| Some((name.as_str(), self.stored_name(name)?)))
    }

    /// All tensors with their names and what they were stored as. Where they were given away, nobody else has their numbers.
    pub(super) fn into_shared(tensors: Cow<'_, Self>) -> impl Iterator<Item = (String, Dtype, SharedArray<A>)> {
        // Cloning a borrowed map copies no numbers.
        let tensors = tensors.into_owned().tensors.into_iter();
        tensors.map(|(name, Tensor { dtype, values })| (name, dtype, values))
    }

    /// Returns the safetensors name of what the tensor was stored as in the file it was read from (`"BF16"`, say, or `"I64"`); that of `A` where
    /// it was [inserted](Self::insert).
    pub fn dtype(&self, name: &str) -> Option<&'static str> {
        let tensor = self.tensor(name)?;
        known(tensor.dtype).map(|(dtype, _)| dtype)
    }

    /// Returns all names that tensors are stored under, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Returns the number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Returns `true` if there are none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The number of elements of all tensors.
    pub(crate) fn number_count(&self) -> usize {
        self.tensors.values().map(|tensor| tensor.values.len()).sum()
    }

    /// Returns the file's metadata.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Sets a metadata entry, replacing any previous value.
    pub fn set_metadata(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.metadata.insert(key.into(), value.into());
    }
}

/// Tensors that a loader may read and must leave: they stay in memory beside the model.
impl<'t, A: Scalar> From<&'t Tensors<A>> for Cow<'t, Tensors<A>> {
    fn from(tensors: &'t Tensors<A>) -> Self {
        Self::Borrowed(tensors)
    }
}

/// Tensors given away to a loader, which frees each as soon as the model has its numbers.
impl<A: Scalar> From<Tensors<A>> for Cow<'_, Tensors<A>> {
    fn from(tensors: Tensors<A>) -> Self {
        Self::Owned(tensors)
    }
}
