//! CRC32C of bytes, and of what is put together of pieces whose checksums are known: arithmetic instead of reading the bytes
//! again.
//!
//! Appending `n` bytes multiplies the checksum before them by x^8n, modulo the polynomial (as zlib's `crc32_combine` does).

/// Castagnoli's polynomial, reflected: the highest bit is x^0.
const POLYNOMIAL: u32 = 0x82f6_3b78;
const ONE: u32 = 1 << 31;

/// x^8n for n below 256, and for multiples of 256 below 65,536.
static POWERS: [[u32; 256]; 2] = [powers(ONE >> 8), powers(power(ONE >> 8, 256))];

/// CRC32C of `bytes`, with the widest instructions that the processor has.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC32C of two pieces, of whose second the length is known as well.
pub(crate) fn combine(first: u32, second: u32, mut second_bytes: usize) -> u32 {
    let mut shifted = first;
    while second_bytes > 0xffff {
        shifted = multiply(shifted, multiply(POWERS[0][255], POWERS[1][255]));
        second_bytes -= 0xffff;
    }
    shifted = multiply(shifted, POWERS[0][second_bytes & 0xff]);
    multiply(shifted, POWERS[1][second_bytes >> 8]) ^ second
}

/// Of polynomials modulo [`POLYNOMIAL`].
const fn multiply(a: u32, b: u32) -> u32 {
    let (mut product, mut shifted, mut bit) = (0, b, 0);
    while bit < 32 {
        // Without branches: the bits are those of checksums, and cannot be guessed.
        product ^= shifted & 0_u32.wrapping_sub(a << bit >> 31);
        shifted = (shifted >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(shifted & 1));
        bit += 1;
    }
    product
}

const fn power(base: u32, exponent: u32) -> u32 {
    let (mut result, mut done) = (ONE, 0);
    while done < exponent {
        result = multiply(result, base);
        done += 1;
    }
    result
}

const fn powers(base: u32) -> [u32; 256] {
    let mut powers = [ONE; 256];
    let mut at = 1;
    while at < 256 {
        powers[at] = multiply(powers[at - 1], base);
        at += 1;
    }
    powers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_computing_it_agree_at_every_length() {
        let bytes: Vec<u8> = (0..70_000_u32).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
        assert_eq!(crc32c(b"123456789"), 0xe306_9283, "the check value of CRC-32/ISCSI");
        for length in (0..1_100).chain([4_095, 4_096, 16_411, 65_537, 69_990]) {
            let part = &bytes[length % 10..][..length];
            assert_eq!(crc32c(part), crc32c::crc32c(part), "{length} bytes");
        }
    }

    #[test]
    fn pieces_have_the_checksum_of_the_whole() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
        for (first, second) in [
            (0, 0),
            (13, 0),
            (0, 13),
            (1, 1),
            (13, 255),
            (9, 256),
            (20, 16_400),
            (7, 65_535),
            (99, 65_536),
            (5, 199_995),
        ] {
            let (a, b) = (&bytes[..first], &bytes[first..first + second]);
            let whole = crc32c::crc32c(&bytes[..first + second]);
            assert_eq!(combine(crc32c::crc32c(a), crc32c::crc32c(b), second), whole, "{first} + {second}");
        }
    }
}
