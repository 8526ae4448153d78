//! Tensors by name.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use ndarray::{ArrayD, ArrayViewD};
use safetensors::Dtype;

use super::codec::{is_floating, known, native_dtype};
use super::contents::{Contents, read_header, read_tensor};
use super::file::failed;
use super::header::{METADATA, malformed};
use crate::error::{Error, Result};
use crate::scalar::Scalar;

/// Tensors by name, in the order of their names: what is read from a safetensors file or written to one.
///
/// A file may store numbers as F64, F32, F16, BF16, as integers or as BOOL; all become `A`, rounded where they must be.
/// [`dtype`](Self::dtype) tells what they were. They are written as `A` is: F32 or F64.
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
    /// What the file stored.
    dtype: Dtype,
    values: ArrayD<A>,
}

impl<A: Scalar> Tensors<A> {
    /// No tensors yet.
    pub fn new() -> Self {
        Self {
            tensors: BTreeMap::new(),
            metadata: BTreeMap::new(),
        }
    }

    /// Reads a safetensors file, without holding more of it in memory than its tensors.
    ///
    /// # Errors
    /// A file that cannot be read, or is no valid safetensors file; a dtype other than those above.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| failed("open", path, source))?;
        let len = file.metadata().map_err(|source| failed("read", path, source))?.len();
        Self::from_reader(&mut BufReader::new(file), len, &|source| failed("read", path, source))
    }

    /// Reads what a safetensors file consists of.
    ///
    /// # Errors
    /// Bytes that are no valid safetensors file; a dtype other than those above.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut input = bytes;
        Self::from_reader(&mut input, bytes.len() as u64, &|error| malformed(error.to_string()))
    }

    fn from_reader(input: &mut impl Read, len: u64, failed: &dyn Fn(io::Error) -> Error) -> Result<Self> {
        let header = read_header(input, len, failed)?;
        let mut tensors = BTreeMap::new();
        for (name, info) in header.tensors {
            let values = read_tensor(input, &name, &info, failed)?;
            tensors.insert(name, Tensor { dtype: info.dtype, values });
        }
        Ok(Self {
            tensors,
            metadata: header.metadata,
        })
    }

    /// Writes a safetensors file. The same tensors and metadata give the same bytes.
    ///
    /// It is written to a temporary file in the same directory and renamed: whatever happens, there is a whole file at `path`, the
    /// old one or the new one. A symbolic link is replaced, not followed.
    ///
    /// # Errors
    /// A file or directory that cannot be written; more or longer names than a header has room for.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        self.contents()?.save(path.as_ref())
    }

    /// What [`write`](Self::write) writes.
    ///
    /// # Errors
    /// More or longer names than a header has room for.
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
    /// A name that is taken, or `__metadata__`, which the format reserves.
    pub fn insert(&mut self, name: impl Into<String>, tensor: ArrayD<A>) -> Result<()> {
        let name = name.into();
        if name == METADATA {
            return Err(malformed(format!("no tensor can be named `{METADATA}`")));
        }
        if self.tensors.contains_key(&name) {
            return Err(malformed(format!("two tensors are named `{name}`")));
        }
        let dtype = native_dtype::<A>();
        self.tensors.insert(name, Tensor { dtype, values: tensor });
        Ok(())
    }

    /// Adds a tensor of a checked header, as it was stored.
    pub(crate) fn insert_as(&mut self, name: &str, dtype: Dtype, values: ArrayD<A>) {
        self.tensors.insert(name.to_owned(), Tensor { dtype, values });
    }

    pub(crate) fn take_metadata(&mut self, metadata: BTreeMap<String, String>) {
        self.metadata = metadata;
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<ArrayViewD<'_, A>> {
        self.tensors.get(name).map(|tensor| tensor.values.view())
    }

    /// The safetensors name of what the tensor was stored as in the file it was read from (`"BF16"`, say, or `"I64"`); that of `A` where
    /// it was [inserted](Self::insert).
    pub fn dtype(&self, name: &str) -> Option<&'static str> {
        let tensor = self.tensors.get(name)?;
        known(tensor.dtype).map(|(dtype, _)| dtype)
    }

    /// Whether the tensor of this name was stored as floating-point numbers, as a model's parameters must be.
    pub(crate) fn is_floating(&self, name: &str) -> bool {
        self.tensors.get(name).is_some_and(|tensor| is_floating(tensor.dtype))
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The number of elements of all tensors.
    pub(crate) fn number_count(&self) -> usize {
        self.tensors.values().map(|tensor| tensor.values.len()).sum()
    }

    /// What the file says besides its tensors.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Says something besides the tensors; what was said under this key is forgotten.
    pub fn set_metadata(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.metadata.insert(key.into(), value.into());
    }
}
