//! Files of which only some columns of some tensors are read.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use ndarray::{ArrayD, IxDyn};
use safetensors::tensor::TensorInfo;

use super::Tensors;
use super::codec::{decode, known};
use super::contents::{read_header, read_tensor};
use super::file::{failed, open};
use super::header::{Header, malformed};
use crate::error::{Error, Result};
use crate::scalar::Scalar;

/// A file whose header has been read.
pub(crate) struct Opened<R> {
    input: R,
    path: PathBuf,
    header: Header,
    /// Where the tensors' bytes begin.
    start: u64,
}

impl Opened<BufReader<File>> {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (input, len) = open(path)?;
        Self::new(input, len, path)
    }
}

impl<R: Read + Seek> Opened<R> {
    fn new(mut input: R, len: u64, path: &Path) -> Result<Self> {
        let failed = |source| failed("read", path, source);
        let header = read_header(&mut input, len, &failed)?;
        let start = input.stream_position().map_err(failed)?;
        Ok(Self {
            input,
            path: path.to_owned(),
            header,
            start,
        })
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// The number of elements of all tensors of the file.
    pub(crate) fn number_count(&self) -> usize {
        let numbers = |info: &TensorInfo| info.shape.iter().product::<usize>();
        self.header.tensors.iter().map(|(_, info)| numbers(info)).sum()
    }

    /// All tensors, but of those that are `cut`, and must have `all` columns (the last axis), only these columns.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or if a tensor that is cut has the wrong number of columns.
    pub(crate) fn read<A: Scalar>(mut self, columns: &Range<usize>, all: usize, cut: impl Fn(&str) -> bool) -> Result<Tensors<A>> {
        let mut tensors = Tensors::new();
        for (name, info) in &self.header.tensors {
            let path = &self.path;
            let failed = |source: io::Error| failed("read", path, source);
            let first = self.start + info.data_offsets.0 as u64;
            let values = if cut(name) {
                check_columns(name, info, all)?;
                read_columns(&mut self.input, (first, columns), name, info, &failed)?
            } else {
                self.input.seek(SeekFrom::Start(first)).map_err(failed)?;
                read_tensor(&mut self.input, name, info, &failed)?
            };
            tensors.insert_as(name.clone(), info.dtype, values.into_shared())?;
        }
        tensors.take_metadata(self.header.metadata);
        Ok(tensors)
    }
}

fn check_columns(name: &str, info: &TensorInfo, all: usize) -> Result<()> {
    if info.shape.last() == Some(&all) {
        return Ok(());
    }
    let problem = format!("`{name}` has shape {:?}, expected {all} columns", info.shape);
    Err(Error::Checkpoint { problems: vec![problem] })
}

/// Some columns of a tensor whose bytes begin at `first`.
fn read_columns<A: Scalar>(
    input: &mut (impl Read + Seek),
    (first, columns): (u64, &Range<usize>),
    name: &str,
    info: &TensorInfo,
    failed: &dyn Fn(io::Error) -> Error,
) -> Result<ArrayD<A>> {
    let width = known(info.dtype).map_or(1, |(_, width)| width);
    let all = info.shape.last().copied().unwrap_or(1);
    let mut shape = info.shape.clone();
    if let Some(last) = shape.last_mut() {
        *last = columns.len();
    }
    let rows: usize = info.shape.iter().rev().skip(1).product();
    let mut values: Vec<A> = Vec::new();
    if values.try_reserve_exact(rows * columns.len()).is_err() {
        return Err(malformed(format!("there is no memory for the columns of tensor `{name}`")));
    }
    let mut bytes = vec![0; columns.len() * width];
    for row in 0..rows {
        let place = first + ((row * all + columns.start) * width) as u64;
        input.seek(SeekFrom::Start(place)).map_err(failed)?;
        input.read_exact(&mut bytes).map_err(failed)?;
        decode(info.dtype, &bytes, &mut values);
    }
    ArrayD::from_shape_vec(IxDyn(&shape), values).map_err(|error| malformed(format!("tensor `{name}`: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array2;
    use std::io::Cursor;

    /// Counts the bytes that are read.
    struct Counting<'c>(Cursor<&'c [u8]>, &'c mut usize);

    impl Read for Counting<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let count = self.0.read(to)?;
            *self.1 += count;
            Ok(count)
        }
    }

    impl Seek for Counting<'_> {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }

    #[test]
    fn only_the_columns_are_read() {
        let matrix = Array2::from_shape_fn((3, 1000), |(row, column)| (row * 1000 + column) as f64);
        let mut tensors = Tensors::new();
        tensors.insert("matrix", matrix.clone().into_dyn()).unwrap();
        tensors.insert("other", Array2::ones((2, 2)).into_dyn()).unwrap();
        let bytes = tensors.to_bytes().unwrap();
        let mut read = 0;
        let input = Counting(Cursor::new(&bytes), &mut read);
        let opened = Opened::new(input, bytes.len() as u64, Path::new("file")).unwrap();
        assert_eq!(opened.number_count(), 3004);
        let part = opened.read::<f64>(&(300..310), 1000, |name| name == "matrix").unwrap();
        assert_eq!(part.get("matrix").unwrap(), matrix.slice(ndarray::s![.., 300..310]).into_dyn());
        assert_eq!(part.get("other").unwrap().shape(), [2, 2]);
        assert_eq!(read, bytes.len() - 3 * 990 * 8);
        for all in [999, 1001] {
            let opened = Opened::new(Cursor::new(&bytes), bytes.len() as u64, Path::new("file")).unwrap();
            assert!(opened.read::<f64>(&(300..310), all, |name| name == "matrix").is_err());
        }
    }

    #[test]
    fn many_rows_of_no_columns_are_not_walked_through() {
        let mut tensors = Tensors::new();
        tensors.insert("matrix", Array2::<f64>::zeros((1 << 50, 0)).into_dyn()).unwrap();
        let bytes = tensors.to_bytes().unwrap();
        let opened = Opened::new(Cursor::new(&bytes), bytes.len() as u64, Path::new("file")).unwrap();
        assert!(opened.read::<f64>(&(0..0), 10, |_| true).is_err());
    }
}
