use proptest::prelude::*;

use super::codec::*;

const ESSAY: &str = include_str!("../../samples/documents/essay-city-trees.txt");

fn round(plain: &[u8], base: Option<&[u8]>) -> Encoded {
    let encoded = encode(plain, base);
    let decoded = decode(encoded.codec, &encoded.bytes, base, plain.len() as u64, &hash(plain)).unwrap();
    assert_eq!(decoded, plain);
    encoded
}

#[test]
fn each_form_is_taken_where_it_pays() {
    assert_eq!(round(b"", None), Encoded { codec: Codec::Raw, bytes: Vec::new() });
    assert_eq!(round(b"Hello", None), Encoded { codec: Codec::Raw, bytes: b"Hello".to_vec() });
    let full = round(ESSAY.as_bytes(), None);
    assert!(full.codec == Codec::Zstd && full.bytes.len() * 10 < ESSAY.len() * 7, "{}", full.bytes.len());
    let edited = ESSAY.replace("trees", "parks");
    let delta = round(edited.as_bytes(), Some(ESSAY.as_bytes()));
    assert!(delta.codec == Codec::ZstdDelta && delta.bytes.len() < 150, "{}", delta.bytes.len());
    let other = include_str!("../../samples/documents/bug-report.md");
    assert_eq!(round(other.as_bytes(), Some(ESSAY.as_bytes())).codec, Codec::Zstd, "nothing in common");
    assert_eq!(round(b"", Some(ESSAY.as_bytes())).codec, Codec::Raw);
    assert_eq!(round(ESSAY.as_bytes(), Some(b"")).codec, Codec::Zstd);
}

#[test]
fn megabytes_are_found_again_in_the_base() {
    let base: String = (0..200_000_u32).map(|i| format!("{} ", i.wrapping_mul(2_654_435_761))).collect();
    let edited = format!("A new beginning. {}", base.replace("123456", "x"));
    let delta = round(edited.as_bytes(), Some(base.as_bytes()));
    assert!(delta.codec == Codec::ZstdDelta && delta.bytes.len() * 100 < edited.len(), "{}", delta.bytes.len());
}

#[test]
fn what_is_not_the_content_is_not_given_out() {
    let (plain, edited) = (ESSAY.as_bytes(), ESSAY.replace("trees", "parks"));
    let (size, right) = (edited.len() as u64, hash(edited.as_bytes()));
    let delta = encode(edited.as_bytes(), Some(plain));
    let of = |base, size, hash: &str| decode(delta.codec, &delta.bytes, base, size, hash);
    assert_eq!(of(None, size, &right), Err(CodecError::NoBase));
    assert_eq!(of(Some(plain), size + 1, &right), Err(CodecError::Size { expected: size + 1, found: size }));
    let found = right.clone();
    assert_eq!(of(Some(plain), size, "ab"), Err(CodecError::Hash { expected: "ab".into(), found }));
    let wrong: Vec<u8> = plain.iter().rev().copied().collect();
    assert!(matches!(of(Some(&wrong), size, &right), Err(CodecError::Hash { .. })), "another base of the same length");
    assert!(matches!(of(Some(&plain[..9]), size, &right), Err(CodecError::Garbled(_) | CodecError::Hash { .. })));
    assert!(matches!(decode(Codec::Zstd, &delta.bytes, None, size, &right), Err(CodecError::Garbled(_))));
}

#[test]
fn a_bomb_is_refused_before_it_opens() {
    let zeros = vec![0; MAX_SIZE as usize];
    let bomb = encode(&zeros, None);
    assert!(bomb.bytes.len() < 2000);
    assert_eq!(
        decode(bomb.codec, &bomb.bytes, None, 100, "ab"),
        Err(CodecError::Size { expected: 100, found: MAX_SIZE })
    );
    assert_eq!(decode(bomb.codec, &bomb.bytes, None, u64::MAX, "ab"), Err(CodecError::TooLarge(u64::MAX)));
    // Two frames, of which the first is honest.
    let mut two = encode(ESSAY.as_bytes(), None).bytes;
    two.extend(&bomb.bytes);
    assert!(matches!(
        decode(Codec::Zstd, &two, None, ESSAY.len() as u64, &hash(ESSAY.as_bytes())),
        Err(CodecError::Garbled(_))
    ));
}

proptest! {
    #[test]
    fn anything_comes_back(plain in prop::collection::vec(any::<u8>(), 0..5000), base in prop::collection::vec(any::<u8>(), 0..5000)) {
        round(&plain, None);
        round(&plain, Some(&base));
    }

    #[test]
    fn edits_come_back(cuts in prop::collection::vec((0_usize..2000, 0_usize..60, "[a-z ]{0,40}"), 0..12)) {
        let mut edited = ESSAY.to_owned();
        for (at, length, text) in cuts {
            let at = edited.floor_char_boundary(at.min(edited.len()));
            let end = edited.floor_char_boundary((at + length).min(edited.len())).max(at);
            edited.replace_range(at..end, &text);
        }
        round(edited.as_bytes(), Some(ESSAY.as_bytes()));
    }

    /// Whatever is in the store: an error or the right content, and never more memory than declared.
    #[test]
    fn garbage_is_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300), size in 0_u64..100_000, delta: bool) {
        let (codec, base) = if delta { (Codec::ZstdDelta, Some(ESSAY.as_bytes())) } else { (Codec::Zstd, None) };
        prop_assert!(decode(codec, &bytes, base, size, "ab").is_err());
    }

    #[test]
    fn a_changed_byte_is_never_served(at in 0_usize..10_000, to: u8, cut: bool) {
        let edited = ESSAY.replace("city", "town");
        let base = Some(ESSAY.as_bytes());
        for mut encoded in [encode(edited.as_bytes(), None), encode(edited.as_bytes(), base)] {
            let at = at % encoded.bytes.len();
            if cut { encoded.bytes.truncate(at) } else { encoded.bytes[at] = to }
            let size = edited.len() as u64;
            match decode(encoded.codec, &encoded.bytes, base, size, &hash(edited.as_bytes())) {
                Ok(plain) => prop_assert_eq!(plain, edited.as_bytes()),
                Err(e) => prop_assert!(!matches!(e, CodecError::NoBase)),
            }
        }
    }
}
