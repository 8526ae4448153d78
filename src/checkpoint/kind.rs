//! Files of other formats that are given as safetensors, by their first bytes.

/// The bytes that are looked at.
pub(super) const START: usize = 512;

const EXPORT: &str = "turn it into safetensors with tools/export_checkpoint.py";
const DOWNLOAD: &str = "download the file itself";
const UNPACK: &str = "unpack it first";
const INDEX: &str = "where it is the index of a model in several files, give its path to `Tensors::read`";

/// Formats by the bytes at their beginning: what the file is, and what to do.
const FORMATS: [(&[u8], &str, &str); 15] = [
    (b"\x1f\x8b", "is gzip", UNPACK),
    (b"BZh", "is bzip2", UNPACK),
    (b"\xfd7zXZ\0", "is xz", UNPACK),
    (b"\x28\xb5\x2f\xfd", "is zstd", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", UNPACK),
    (
        b"\x89HDF\r\n\x1a\n",
        "is HDF5, probably of Keras",
        "read it with h5py and write its arrays with safetensors.numpy.save_file",
    ),
    (b"GGUF", "is GGUF, of llama.cpp", "give the safetensors file that it was made from"),
    (
        b"\x93NUMPY",
        "is a NumPy array (.npy)",
        "write it with safetensors.numpy.save_file, under the name of its tensor",
    ),
    (
        b"version https://git-lfs",
        "is a Git LFS pointer, not the file itself",
        "fetch that with `git lfs pull`",
    ),
    (b"ARROW1", "is Arrow", "write its tensors as safetensors"),
    (b"PAR1", "is Parquet", "write its tensors as safetensors"),
    (b"(dp", "is a pickle, probably of PyTorch", EXPORT),
    (b"ccollections\n", "is a pickle, probably of PyTorch", EXPORT),
    (b"%PDF", "is a PDF", DOWNLOAD),
    (b"\x7fELF", "is a program", "give a safetensors file"),
];

/// Whether a file begins as JSON does.
pub(super) fn is_json(start: &[u8]) -> bool {
    // A length can look like a brace, too, but has a 0 in it.
    let is_length = start[..start.len().min(8)].contains(&0);
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    !is_length && text.first().is_some_and(|first| b"{[".contains(first))
}

/// Describes the file that begins with these bytes, if it is not safetensors, and how to convert it.
pub(super) fn recognized(start: &[u8]) -> Option<String> {
    // Every header begins so, and no other format here has a brace in this place.
    if start.get(8) == Some(&b'{') && start.get(5..8) == Some(&[0; 3]) {
        return None;
    }
    let format = FORMATS.iter().find(|(magic, ..)| start.starts_with(magic));
    let (what, advice) = format
        .map(|(_, what, advice)| (*what, *advice))
        .or_else(|| zip(start))
        .or_else(|| pickle(start))
        .or_else(|| tar(start))
        .or_else(|| text(start))?;
    Some(format!("this {what}: {advice}"))
}

type Found = Option<(&'static str, &'static str)>;

fn zip(start: &[u8]) -> Found {
    if start.starts_with(b"PK\x05\x06") {
        return Some(("is an empty zip archive", DOWNLOAD));
    }
    if !start.starts_with(b"PK\x03\x04") {
        return None;
    }
    let length = usize::from(u16::from_le_bytes([*start.get(26)?, *start.get(27)?]));
    let name = start.get(30..(30 + length).min(start.len())).unwrap_or_default();
    Some(if name.ends_with(b".npy") {
        (
            "is a zip archive of NumPy arrays (.npz)",
            "write them with safetensors.numpy.save_file",
        )
    } else {
        ("is a zip archive, probably a PyTorch .pt file", EXPORT)
    })
}

/// A pickle of protocol 2 or later, whose first instruction none of our lengths looks like.
fn pickle(start: &[u8]) -> Found {
    let is_pickle = start.len() > 2 && start[0] == 0x80 && (2..=5).contains(&start[1]) && start[2] != 0;
    is_pickle.then_some(("is a pickle, probably of PyTorch", EXPORT))
}

fn tar(start: &[u8]) -> Found {
    let is_tar = start.get(257..262) == Some(b"ustar");
    is_tar.then_some((
        "is a tar archive",
        "unpack it first; where it is an old PyTorch file, turn it into safetensors with tools/export_checkpoint.py",
    ))
}

fn text(start: &[u8]) -> Found {
    if is_json(start) {
        return Some(("is JSON", INDEX));
    }
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let begins = |with: &[u8]| start.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    if begins(b"<!doctype html") || begins(b"<html") || begins(b"<head") {
        return Some(("is an HTML page, not the file itself", DOWNLOAD));
    }
    if begins(b"<") && start.get(1).is_some_and(|byte| byte.is_ascii_alphabetic() || b"?!".contains(byte)) {
        return Some(("is XML, probably the answer of a server that refused", DOWNLOAD));
    }
    let printable = |byte: &u8| byte.is_ascii_graphic() || b" \t\r\n".contains(byte);
    let is_text = start.len() >= 8 && start.iter().all(printable);
    is_text.then_some(("is text, probably the answer of a server that refused", DOWNLOAD))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_of_any_length_is_none_of_them() {
        for length in 0..1_u64 << 17 {
            let mut start = [b' '; 40];
            start[..8].copy_from_slice(&length.to_le_bytes());
            start[8] = b'{';
            assert_eq!(recognized(&start), None, "{length}");
        }
    }

    #[test]
    fn every_beginning_of_a_file_is_looked_at() {
        for (magic, ..) in FORMATS {
            for length in 0..=magic.len() {
                let _ = recognized(&magic[..length]);
            }
            assert!(recognized(magic).is_some());
        }
        for length in 0..34 {
            let _ = recognized(&b"PK\x03\x04\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..length]);
        }
    }
}
