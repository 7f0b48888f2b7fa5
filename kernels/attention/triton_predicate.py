"""Who sees whom, inside kernels: for pairs of tokens, and for whole tiles by intervals.

The same rule as `tokens.visible_tokens`. The conditions of the patterns are unrolled from a
compile-time code (`tokens.compile_time_code`); their integers are read from a table.
"""

import triton
import triton.language as tl


@triton.jit
def load_tokens(p_token, stride_field, offset, mask):
    """The seven integers of tokens, in the shape of `offset`; document -1 where masked."""
    index = tl.load(p_token + offset, mask=mask, other=0)
    document = tl.load(p_token + stride_field + offset, mask=mask, other=-1)
    segment = tl.load(p_token + 2 * stride_field + offset, mask=mask, other=-1)
    code = tl.load(p_token + 3 * stride_field + offset, mask=mask, other=0)
    t = tl.load(p_token + 4 * stride_field + offset, mask=mask, other=-1)
    h = tl.load(p_token + 5 * stride_field + offset, mask=mask, other=-1)
    w = tl.load(p_token + 6 * stride_field + offset, mask=mask, other=-1)
    return index, document, segment, code, t, h, w


@triton.jit
def _raster_window(q_index, q_row, q_column, k_index, k_row, k_column):
    same = (q_row == k_row) & ((k_column <= q_column) | (k_index > q_index))
    above = (k_row == q_row - 1) & (k_column >= q_column)
    return same | above


@triton.jit
def visible(q, k, p_parameter, CODES: tl.constexpr, CONDITIONS: tl.constexpr):
    """Whether queries see keys: bool in the broadcast shape of the blocks of `q` and `k`.

    Args:
        q, k: The seven integers of each, from `load_tokens`.
        p_parameter: Table [CONDITIONS, 4].
        CODES: All codes in one integer.
        CONDITIONS: How many there are.
    """
    q_index, q_document, q_segment, q_code, q_t, q_h, q_w = q
    k_index, k_document, k_segment, _, k_t, k_h, k_w = k
    earlier = k_index <= q_index
    inside = earlier | (q_code >= 256)
    always = (q_t == q_t) & (k_t == k_t)
    never = (q_t != q_t) | (k_t != k_t)
    clause = always
    allowed = never
    for i in tl.static_range(CONDITIONS):
        if ((CODES >> (10 * i)) & 7) == 1:
            near = tl.abs(q_t - k_t) <= tl.load(p_parameter + 4 * i + 1)
            near = near & (tl.abs(q_h - k_h) <= tl.load(p_parameter + 4 * i + 2))
            clause = clause & near & (tl.abs(q_w - k_w) <= tl.load(p_parameter + 4 * i + 3))
        elif ((CODES >> (10 * i)) & 7) == 2:
            clause = clause & (k_t < tl.load(p_parameter + 4 * i + 1))
        elif ((CODES >> (10 * i)) & 7) == 3:
            clause = clause & (q_t == k_t) & _raster_window(q_index, q_h, q_w, k_index, k_h, k_w)
        else:
            clause = clause & (q_t == k_t) & _raster_window(q_index, q_w, q_h, k_index, k_w, k_h)
        if ((CODES >> (10 * i)) & 8) != 0:
            allowed = allowed | clause
            clause = always
        if ((CODES >> (10 * i)) & 16) != 0:
            is_free = ((q_code & 255) != ((CODES >> (10 * i + 5)) & 31)) | (k_t < 0)
            inside = inside & (is_free | allowed)
            allowed = never
    same_segment = q_segment == k_segment
    seen = (same_segment & inside) | ((q_segment != k_segment) & earlier)
    return seen & (q_document == k_document) & (q_document >= 0)


@triton.jit
def _window_meets(q_i0, q_i1, q_r0, q_r1, q_c0, q_c1, k_i0, k_i1, k_r0, k_r1, k_c0, k_c1):
    same = (q_r0 <= k_r1) & (k_r0 <= q_r1) & ((k_c0 <= q_c1) | (k_i1 > q_i0))
    above = (q_r0 - 1 <= k_r1) & (k_r0 <= q_r1 - 1) & (k_c1 >= q_c0)
    return same | above


@triton.jit
def relation(q, k, p_parameter, CODES: tl.constexpr, CONDITIONS: tl.constexpr):
    """What two tiles have to do with each other, from the least and greatest of their integers.

    Args:
        q, k: Sixteen integers each, from `triton_schedule.load_summary`.

    Returns:
        0 where no pair can be visible, 2 where every pair surely is, else 1.
    """
    qi0, qi1, qd0, qd1, qs0, qs1, qt0, qt1, qh0, qh1, qw0, qw1, qp0, qp1, q_full, q_holes = q
    ki0, ki1, kd0, kd1, ks0, ks1, kt0, kt1, kh0, kh1, kw0, kw1, _, _, _, k_holes = k
    some_earlier = ki0 <= qi1
    all_earlier = ki1 <= qi0
    same_document = (qd0 == qd1) & (kd0 == kd1) & (qd0 == kd0)
    meet = (qd0 <= kd1) & (kd0 <= qd1)
    segments_meet = (qs0 <= ks1) & (ks0 <= qs1)
    one_segment = (qs0 == qs1) & (ks0 == ks1) & (qs0 == ks0)
    # Bits of `holes`: 1 some padding, 2 nothing but padding, 4 some control positions.
    is_empty = ((q_holes & 2) | (k_holes & 2)) != 0
    is_solid = ((q_holes & 1) | (k_holes & 1)) == 0
    some_inside = some_earlier | ((q_full & 1) != 0)
    all_inside = all_earlier | ((q_full & 2) != 0)
    is_free = qp1 == 0
    # Until a program says otherwise, some pair may be allowed, and none surely is.
    may = (qp0 == 0) | ((k_holes & 4) != 0)
    must = qp1 == 0
    always = (qi0 == qi0) & (ki0 == ki0)
    never = (qi0 != qi0) | (ki0 != ki0)
    may_clause = always
    must_clause = always
    may_allow = never
    must_allow = never
    for i in tl.static_range(CONDITIONS):
        a = tl.load(p_parameter + 4 * i + 1)
        if ((CODES >> (10 * i)) & 7) == 1:
            b = tl.load(p_parameter + 4 * i + 2)
            c = tl.load(p_parameter + 4 * i + 3)
            may_clause = may_clause & (qt0 - kt1 <= a) & (kt0 - qt1 <= a)
            may_clause = may_clause & (qh0 - kh1 <= b) & (kh0 - qh1 <= b)
            may_clause = may_clause & (qw0 - kw1 <= c) & (kw0 - qw1 <= c)
            must_clause = must_clause & (qt1 - kt0 <= a) & (kt1 - qt0 <= a)
            must_clause = must_clause & (qh1 - kh0 <= b) & (kh1 - qh0 <= b)
            must_clause = must_clause & (qw1 - kw0 <= c) & (kw1 - qw0 <= c)
        elif ((CODES >> (10 * i)) & 7) == 2:
            may_clause = may_clause & (kt0 < a)
            must_clause = must_clause & (kt1 < a)
        else:
            may_clause = may_clause & (qt0 <= kt1) & (kt0 <= qt1)
            must_clause = never
            if ((CODES >> (10 * i)) & 7) == 3:
                may_clause = may_clause & _window_meets(
                    qi0, qi1, qh0, qh1, qw0, qw1, ki0, ki1, kh0, kh1, kw0, kw1
                )
            else:
                may_clause = may_clause & _window_meets(
                    qi0, qi1, qw0, qw1, qh0, qh1, ki0, ki1, kw0, kw1, kh0, kh1
                )
        if ((CODES >> (10 * i)) & 8) != 0:
            may_allow = may_allow | may_clause
            must_allow = must_allow | must_clause
            may_clause = always
            must_clause = always
        if ((CODES >> (10 * i)) & 16) != 0:
            number = (CODES >> (10 * i + 5)) & 31
            may = may | (may_allow & (qp0 <= number) & (qp1 >= number))
            must = must | (must_allow & (qp0 == number) & (qp1 == number))
            may_allow = never
            must_allow = never
    some = (some_earlier & (one_segment == 0)) | (segments_meet & some_inside & may)
    every = (all_earlier & is_free) | (all_earlier & (segments_meet == 0))
    every = every | (one_segment & all_inside & must)
    some = some & meet & (is_empty == 0)
    every = every & same_document & is_solid & some
    return some.to(tl.int32) + every.to(tl.int32)
