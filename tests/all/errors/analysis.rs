//! Maps that are none.

use crate::analysis::sequences;
use linformer::analysis::{Map, Spectrum, attention_map};
use linformer::ndarray::{Array2, array};
use linformer::{AttentionConfig, Encoder, EncoderConfig, Error};

#[test]
fn maps_that_a_layer_does_not_have() -> Result<(), Error> {
    let encoder = Encoder::<f64>::new(&EncoderConfig::new(AttentionConfig::new(8, 2), 1), 1)?;
    let x = sequences(1, 5, 8);
    assert!(attention_map(&encoder, 0, Map::Exact, &x, None).is_ok());
    for (layer, map) in [(0, Map::Compressed), (0, Map::Effective), (1, Map::Exact)] {
        assert!(matches!(attention_map(&encoder, layer, map, &x, None), Err(Error::Argument { .. })));
    }
    assert!(matches!(
        attention_map(&encoder, 0, Map::Exact, &sequences(1, 5, 7), None),
        Err(Error::Shape { .. })
    ));
    Ok(())
}

#[test]
fn bad_maps_and_shares() -> Result<(), Error> {
    assert!(matches!(
        Spectrum::of(Array2::<f64>::zeros((0, 3)).view()),
        Err(Error::Shape { .. })
    ));
    assert!(matches!(Spectrum::of(array![[1.0, f64::NAN]].view()), Err(Error::Argument { .. })));
    let spectrum = Spectrum::of(Array2::<f32>::zeros((2, 2)).view())?;
    assert_eq!(spectrum.rank_for(0.9)?, 1);
    for share in [-0.1, 1.1, f64::NAN] {
        assert!(spectrum.rank_for(share).is_err());
    }
    Ok(())
}
