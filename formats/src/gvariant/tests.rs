//! Expected bytes are those of GLib's `g_variant_get_data`, or follow from the specification's own examples.

use super::*;

#[test]
fn the_examples_of_the_specification() {
    // ('foo', 0xffffffff), little-endian there; here only the layout counts.
    let mut tuple = Tuple::new();
    tuple.text("foo").u32_be(0xffff_ffff);
    assert_eq!(tuple.finish(), b"foo\0\xff\xff\xff\xff\x04");
    // ["i", "can", "has", "strings?"]
    let mut array = Array::new(1);
    for text in ["i\0", "can\0", "has\0", "strings?\0"] {
        array.push(text.as_bytes());
    }
    assert_eq!(array.finish(), b"i\0can\0has\0strings?\0\x02\x06\x0a\x13");
    // [("hi", -2), ("bye", -1)] of type a(si), big-endian.
    let mut array = Array::new(4);
    for (name, value) in [("hi", 0xffff_fffe), ("bye", 0xffff_ffff)] {
        let mut pair = Tuple::new();
        pair.text(name).u32_be(value);
        array.push(&pair.finish());
    }
    assert_eq!(
        array.finish(),
        b"hi\0\0\xff\xff\xff\xfe\x03\0\0\0bye\0\xff\xff\xff\xff\x04\x09\x15"
    );
}

#[test]
fn a_tuple_of_a_fixed_size_is_padded() {
    let mut tuple = Tuple::new();
    tuple.u64_be(1).byte(2);
    assert_eq!(tuple.finish(), b"\0\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\0");
}

#[test]
fn a_dictionary() {
    let version = Variant::Text("1".into());
    let bytes = dict([("version", &version)]);
    assert_eq!(bytes, b"version\x001\0\0s\x08\x0d");
}

#[test]
fn offsets_are_as_narrow_as_they_can_be() {
    for (body, count, width) in [
        (0, 0, 1),
        (254, 1, 1),
        (255, 1, 2),
        (255, 0, 1),
        (256, 0, 2),
        (65_533, 1, 2),
        (65_534, 1, 4),
        (1 << 33, 1, 8),
    ] {
        assert_eq!(width_of(body, count), width, "{body} {count}");
    }
}

#[test]
fn what_is_written_is_read() {
    for len in [0, 1, 200, 253, 300, 70_000] {
        let long = vec![7_u8; len];
        let mut tuple = Tuple::new();
        tuple.text("name").bytes(&long).u64_be(5).bytes(&long);
        let bytes = tuple.finish();
        let mut reader = TupleReader::new(&bytes);
        assert_eq!(reader.variable(1).and_then(text), Ok("name"));
        assert_eq!(reader.variable(1), Ok(long.as_slice()));
        assert_eq!(reader.fixed(8), Ok(5_u64.to_be_bytes()));
        assert_eq!(reader.last(1), Ok(long.as_slice()));

        let mut array = Array::new(8);
        array.push(b"a").push(&long).push(b"");
        let bytes = array.finish();
        assert_eq!(
            elements(&bytes, 8),
            Ok(vec![b"a".as_slice(), &long, b""]),
            "{len}"
        );
    }
    assert_eq!(elements(b"", 1), Ok(Vec::new()));
}

#[test]
fn foreign_bytes_are_refused() {
    assert!(elements(b"abc\xff", 1).is_err());
    assert!(elements(b"abc\x02\x01", 1).is_err());
    assert!(TupleReader::new(b"").variable(1).is_err());
    assert!(TupleReader::new(b"ab\xf0").variable(1).is_err());
    assert!(TupleReader::new(b"ab").fixed::<8>(8).is_err());
    assert!(text(b"").is_err());
    assert!(text(b"a").is_err());
    assert!(text(b"\xff\0").is_err());
    for len in 0..40 {
        for seed in 0_u8..=255 {
            let bytes: Vec<u8> = (0..len)
                .map(|i| seed.wrapping_mul(i).wrapping_add(i))
                .collect();
            let _any = elements(&bytes, 8);
            let mut reader = TupleReader::new(&bytes);
            let _any = reader.variable(8);
            let _any = reader.fixed::<4>(4);
            let _any = reader.last(1);
        }
    }
}
