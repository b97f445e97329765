/* The compiled walk: the steps of nbs/06_walk.ipynb, operation by operation, for one row or for columns.

   Tests hold it to the same bits as the Python walk on random plans. It trusts nobody: the plan it is given was checked in Python
   (mlserve.plan.check), and every index that is used below is checked here again before the first row is scored. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#define BLOCK 128 /* rows that go through the steps together */
#define LANES 8   /* ways down a tree that are walked at the same time: while one waits for memory, the others go on */
#define SMALL 768 /* numbers that one row may need without asking for memory */

enum { LEAF, BELOW, BELOW_OR_MISSING, AMONG };

enum op {
    ISNAN, NEG, ABS, SQUARE, SQRT, RECIPROCAL, EXP, EXPM1, LOG, LOG1P, LOG2, LOG10, EXPIT, TANH, PPF,
    ADD, SUB, MUL, DIV, FILL, BOXCOX, YEOJOHNSON, CLIP, CODE, TABLE, PICK, QUANTILE, PIECE,
    GUARD, TIMES, PLUS, MEAN, ARGMAX, SOFTMAX, SHARE, LINEAR, QUADRATIC, TREES, OPS
};

static const char *const NAMES[OPS] = {
    "isnan", "neg", "abs", "square", "sqrt", "reciprocal", "exp", "expm1", "log", "log1p", "log2", "log10", "expit", "tanh", "ppf",
    "add", "sub", "mul", "div", "fill", "boxcox", "yeojohnson", "clip", "code", "table", "pick", "quantile", "piece",
    "guard", "times", "plus", "mean", "argmax", "softmax", "share", "linear", "quadratic", "trees",
};

/* A question is always column <= cut. The columns of a forest are made from the slots once for each row: the slot itself, the slot
   with missing as minus infinity, or 0 for a code in a set and 1 for one outside. A leaf answers no and leads back to itself. */
typedef struct {
    double cut;
    int32_t left; /* if yes; if no, the next one */
    int32_t column;
} Node;

typedef struct {
    Py_ssize_t slot, set;
    int kind;
} Column;

typedef struct {
    enum op op;
    Py_ssize_t inputs, numbers, out, outputs;
    Py_ssize_t *input;
    double *number;
    Py_ssize_t whole[4];
    Py_ssize_t columns; /* trees only, from here */
    Column *column;
    Node *node;
    int32_t *leaf; /* of each node: where its numbers are */
} Step;

typedef struct {
    int role; /* 0 unused, 1 number, 2 code */
    double unseen, missing;
    PyObject *codes; /* level -> code as a float */
} Field;

typedef struct {
    PyObject_HEAD
    Py_ssize_t fields, steps, outputs, slots, widest, leaves, sets, roots;
    Field *field;
    Step *step;
    Py_ssize_t *output, *codes; /* codes: for each slot, how many codes it may hold */
    double *leaf;
    uint64_t *set;
    int32_t *root;
} Walk;

static PyObject *Refused;

/* ---- functions of one number ---------------------------------------------------------------------------------------- */

static double log_from(double (*function)(double), double x, double zero)
{
    return x > zero ? function(x) : x == zero ? -INFINITY : NAN;
}

static double horner(const double *c, double r)
{
    double value = c[0];
    for (int i = 1; i < 8; i++) value = value * r + c[i];
    return value;
}

/* Wichura (1988), algorithm AS 241, in the order of operations of Python's statistics module */
static double ppf(double p)
{
    static const double a[8] = {
        2.5090809287301226727e+3, 3.3430575583588128105e+4, 6.7265770927008700853e+4, 4.5921953931549871457e+4,
        1.3731693765509461125e+4, 1.9715909503065514427e+3, 1.3314166789178437745e+2, 3.3871328727963666080e+0};
    static const double b[8] = {
        5.2264952788528545610e+3, 2.8729085735721942674e+4, 3.9307895800092710610e+4, 2.1213794301586595867e+4,
        5.3941960214247511077e+3, 6.8718700749205790830e+2, 4.2313330701600911252e+1, 1.0};
    static const double c[8] = {
        7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258e+0,
        3.64784832476320460504e+0, 5.76949722146069140550e+0, 4.63033784615654529590e+0, 1.42343711074968357734e+0};
    static const double d[8] = {
        1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
        6.89767334985100004550e-1, 1.67638483018380384940e+0, 2.05319162663775882187e+0, 1.0};
    static const double e[8] = {
        2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3, 2.65321895265761230930e-2,
        2.96560571828504891230e-1, 1.78482653991729133580e+0, 5.46378491116411436990e+0, 6.65790464350110377720e+0};
    static const double f[8] = {
        2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5, 7.86869131145613259100e-4,
        1.48753612908506148525e-2, 1.36929880922735805310e-1, 5.99832206555887937690e-1, 1.0};
    if (!(p > 0.0 && p < 1.0)) return p == 0.0 ? -INFINITY : p == 1.0 ? INFINITY : NAN;
    double q = p - 0.5, r, x;
    if (fabs(q) <= 0.425) {
        r = 0.180625 - q * q;
        return horner(a, r) * q / horner(b, r);
    }
    r = sqrt(-log(q <= 0.0 ? p : 1.0 - p));
    x = r <= 5.0 ? horner(c, r - 1.6) / horner(d, r - 1.6) : horner(e, r - 5.0) / horner(f, r - 5.0);
    return q < 0.0 ? -x : x;
}

/* how many of n rising numbers are below x */
static Py_ssize_t below(const double *knot, Py_ssize_t n, double x)
{
    Py_ssize_t low = 0;
    while (low < n) {
        Py_ssize_t middle = low + (n - low) / 2;
        if (knot[middle] < x) low = middle + 1; else n = middle;
    }
    return low;
}

/* numpy.interp; sign -1 reads both rows mirrored, from back to front */
static double interpolate(double x, const double *xs, const double *ys, Py_ssize_t n, int sign)
{
#define X(i) (sign < 0 ? -xs[n - 1 - (i)] : xs[i])
#define Y(i) (sign < 0 ? -ys[n - 1 - (i)] : ys[i])
    if (x > X(n - 1)) return Y(n - 1);
    if (x < X(0)) return Y(0);
    Py_ssize_t j = 0, high = n; /* how many xs are at most x */
    while (j < high) {
        Py_ssize_t middle = j + (high - j) / 2;
        if (X(middle) <= x) j = middle + 1; else high = middle;
    }
    j -= 1;
    if (j < 0) return NAN;
    if (j == n - 1 || X(j) == x) return Y(j);
    return (Y(j + 1) - Y(j)) / (X(j + 1) - X(j)) * (x - X(j)) + Y(j);
#undef X
#undef Y
}

static double quantile(double x, const double *number, Py_ssize_t half, int normal)
{
    const double *xs = number, *ys = number + half;
    double margin = normal ? 1e-7 : 0.0;
    if (isnan(x)) return x;
    if (x - margin < xs[0] || (!normal && x == xs[0])) return 0.0;
    if (x + margin > xs[half - 1] || (!normal && x == xs[half - 1])) return 1.0;
    return 0.5 * (interpolate(x, xs, ys, half, 1) - interpolate(-x, xs, ys, half, -1));
}

static double piece(double x, const double *number, Py_ssize_t numbers, Py_ssize_t degree)
{
    Py_ssize_t wide = degree + 2, knots = (numbers + 1) / (wide + 1) - 1;
    if (isnan(x)) return x;
    const double *p = number + knots + below(number, knots, x) * wide;
    double value = p[degree + 1];
    x = x - p[0];
    for (Py_ssize_t k = degree; k > 0; k--) value = value * x + p[k];
    return value;
}

static double yeojohnson(double x, double power)
{
    double rest = 2.0 - power;
    if (x >= 0.0) return power != 0.0 ? expm1(power * log_from(log1p, x, -1.0)) / power : log_from(log1p, x, -1.0);
    double y = log_from(log1p, -x, -1.0);
    return rest != 0.0 ? -expm1(rest * y) / rest : -y;
}

static double looked_up(double x, const Step *s)
{
    return x >= 0.0 && x < (double)s->numbers ? s->number[(Py_ssize_t)x] : NAN;
}

static double one(const Step *s, double x)
{
    const double *n = s->number;
    switch (s->op) {
    case ISNAN: return isnan(x) ? 1.0 : 0.0;
    case NEG: return -x;
    case ABS: return fabs(x);
    case SQUARE: return x * x;
    case SQRT: return x >= 0.0 ? sqrt(x) : NAN;
    case RECIPROCAL: return 1.0 / x;
    case EXP: return exp(x);
    case EXPM1: return expm1(x);
    case LOG: return log_from(log, x, 0.0);
    case LOG1P: return log_from(log1p, x, -1.0);
    case LOG2: return log_from(log2, x, 0.0);
    case LOG10: return log_from(log10, x, 0.0);
    case EXPIT: return 1.0 / (1.0 + exp(-x));
    case TANH: return tanh(x);
    case PPF: return ppf(x);
    case ADD: return x + n[0];
    case SUB: return x - n[0];
    case MUL: return x * n[0];
    case DIV: return x / n[0];
    case FILL: return isnan(x) ? n[0] : x;
    case BOXCOX: return n[0] != 0.0 ? expm1(n[0] * log_from(log, x, 0.0)) / n[0] : log_from(log, x, 0.0);
    case YEOJOHNSON: return yeojohnson(x, n[0]);
    case CLIP: return x < n[0] ? n[0] : x > n[1] ? n[1] : x;
    case CODE: return isnan(x) ? (double)(s->numbers + 1) : (double)below(n, s->numbers, x);
    case TABLE: case PICK: return looked_up(x, s);
    case QUANTILE: return quantile(x, n, s->numbers / 2, (int)s->whole[0]);
    case PIECE: return piece(x, n, s->numbers, s->whole[0]);
    default: return NAN;
    }
}

/* ---- steps that read many slots; v[slot * B + row] -------------------------------------------------------------------- */

#define AT(slot) v[(slot) * B + r]
#define IN(i) AT(s->input[i])

static void sums(const Step *s, double *v, Py_ssize_t B, Py_ssize_t r)
{
    double total = s->op == PLUS ? IN(0) : 0.0;
    if (s->op == PLUS)
        for (Py_ssize_t i = 1; i < s->inputs; i++) total += IN(i);
    else {
        for (Py_ssize_t i = 0; i < s->inputs; i++) total += IN(i) * s->number[i];
        total /= s->number[s->inputs];
    }
    AT(s->out) = total;
}

static void argmax(const Step *s, double *v, Py_ssize_t B, Py_ssize_t r)
{
    Py_ssize_t place = 0;
    double best = IN(0);
    for (Py_ssize_t i = 0; i < s->inputs; i++)
        if (IN(i) > best) best = IN(i), place = i;
    AT(s->out) = (double)place;
}

static void softmax(const Step *s, double *v, Py_ssize_t B, Py_ssize_t r)
{
    double most = IN(0), total = 0.0;
    for (Py_ssize_t i = 1; i < s->inputs; i++)
        if (IN(i) > most) most = IN(i);
    for (Py_ssize_t i = 0; i < s->inputs; i++) total += AT(s->out + i) = exp(IN(i) - most);
    for (Py_ssize_t i = 0; i < s->inputs; i++) AT(s->out + i) /= total;
}

static void share(const Step *s, double *v, Py_ssize_t B, Py_ssize_t r)
{
    double total = 0.0;
    for (Py_ssize_t i = 0; i < s->inputs; i++) total += IN(i);
    for (Py_ssize_t i = 0; i < s->inputs; i++)
        AT(s->out + i) = total != 0.0 ? IN(i) / total : (double)s->whole[0] / (double)s->inputs;
}

static void linear(const Step *s, double *v, Py_ssize_t B, Py_ssize_t r)
{
    const double *w = s->number;
    for (Py_ssize_t k = 0; k < s->outputs; k++, w += s->inputs + 1) {
        double total = 0.0;
        for (Py_ssize_t i = 0; i < s->inputs; i++) total += IN(i) * w[i + 1];
        AT(s->out + k) = total + w[0];
    }
}

static void quadratic(const Step *s, double *v, Py_ssize_t B, Py_ssize_t r)
{
    const double *w = s->number;
    for (Py_ssize_t k = 0; k < s->outputs; k++, w += 2 * s->inputs + 1) {
        double total = 0.0;
        for (Py_ssize_t i = 0; i < s->inputs; i++) {
            double away = IN(i) - w[1 + i];
            total += away * away * w[1 + s->inputs + i];
        }
        AT(s->out + k) = total + w[0];
    }
}

static double asked(const Walk *w, const Column *c, double x)
{
    if (c->kind == BELOW) return x;
    if (c->kind == BELOW_OR_MISSING) return isnan(x) ? -INFINITY : x;
    if (!(x >= 0.0 && x < (double)w->codes[c->slot])) return 1.0;
    uint64_t code = (uint64_t)x;
    return w->set[c->set + (Py_ssize_t)(code / 64)] >> (code % 64) & 1 ? 0.0 : 1.0;
}

static void descend(const Node *node, int32_t *at, const double *const *x)
{
    int32_t moved;
    do {
        moved = 0;
#if defined(__GNUC__)
#pragma GCC unroll 8
#endif
        for (int l = 0; l < LANES; l++) {
            const Node *n = node + at[l];
            int32_t next = n->left + !(x[l][n->column] <= n->cut);
            moved |= next ^ at[l];
            at[l] = next;
        }
    } while (moved);
}

static void add_leaves(const Walk *w, const Step *s, const int32_t *at, double *v, Py_ssize_t B, Py_ssize_t r)
{
    const double *leaf = w->leaf + s->leaf[*at];
    for (Py_ssize_t k = 0; k < s->outputs; k++) AT(s->out + k) += leaf[k];
}

/* One row: its lanes are different trees. Many rows: the lanes are rows in the same tree, which then stays close at hand. */
static void trees(const Walk *w, const Step *s, double *v, double *x, Py_ssize_t B, Py_ssize_t n)
{
    int32_t at[LANES];
    const double *from[LANES];
    const int32_t *root = w->root + s->whole[0];
    int32_t start = (int32_t)s->whole[2];
    for (Py_ssize_t r = 0; r < n; r++) {
        for (Py_ssize_t k = 0; k < s->outputs; k++) AT(s->out + k) = s->number[k];
        for (Py_ssize_t c = 0; c < s->columns; c++) x[r * s->columns + c] = asked(w, s->column + c, AT(s->column[c].slot));
    }
    if (n == 1) {
        for (Py_ssize_t t = 0; t < s->whole[1]; t += LANES) {
            Py_ssize_t lanes = s->whole[1] - t < LANES ? s->whole[1] - t : LANES;
            for (Py_ssize_t l = 0; l < LANES; l++) at[l] = root[t + (l < lanes ? l : 0)] - start, from[l] = x;
            descend(s->node, at, from);
            for (Py_ssize_t l = 0; l < lanes; l++) add_leaves(w, s, at + l, v, B, 0);
        }
        return;
    }
    for (Py_ssize_t t = 0; t < s->whole[1]; t++)
        for (Py_ssize_t first = 0; first < n; first += LANES) {
            Py_ssize_t lanes = n - first < LANES ? n - first : LANES;
            for (Py_ssize_t l = 0; l < LANES; l++) at[l] = root[t] - start, from[l] = x + (first + (l < lanes ? l : 0)) * s->columns;
            descend(s->node, at, from);
            for (Py_ssize_t l = 0; l < lanes; l++) add_leaves(w, s, at + l, v, B, first + l);
        }
}

static int outside(const Step *s, double x)
{
    return !((s->number[0] <= x && x <= s->number[1]) || (s->number[2] != 0.0 && isnan(x)));
}

/* All steps for n rows, with room at x for the columns of trees; the row that is refused, or -1, and in *slot the slot at fault. */
static Py_ssize_t run(const Walk *w, double *v, double *x, Py_ssize_t B, Py_ssize_t n, Py_ssize_t *slot)
{
    Py_ssize_t refused = -1;
    for (const Step *s = w->step; s < w->step + w->steps; s++) {
        if (s->op == TREES) {
            trees(w, s, v, x, B, n);
            continue;
        }
        for (Py_ssize_t r = 0; r < n; r++) {
            switch (s->op) {
            case GUARD:
                if (outside(s, IN(0)) && (refused < 0 || r < refused)) refused = r, *slot = s->input[0];
                break;
            case TIMES: AT(s->out) = IN(0) * IN(1); break;
            case PLUS: case MEAN: sums(s, v, B, r); break;
            case ARGMAX: argmax(s, v, B, r); break;
            case SOFTMAX: softmax(s, v, B, r); break;
            case SHARE: share(s, v, B, r); break;
            case LINEAR: linear(s, v, B, r); break;
            case QUADRATIC: quadratic(s, v, B, r); break;
            default: AT(s->out) = one(s, IN(0));
            }
        }
    }
    return refused;
}

/* ---- values of Python -------------------------------------------------------------------------------------------------- */

/* 0 if all is well; else -1 with an error set */
static int read_value(const Field *f, PyObject *value, double *out)
{
    if (f->role == 1) {
        if (value == Py_None) {
            *out = NAN;
            return 0;
        }
        *out = PyFloat_AsDouble(value);
        return *out == -1.0 && PyErr_Occurred() ? -1 : 0;
    }
    if (value == Py_None) {
        *out = f->missing;
        return 0;
    }
    PyObject *code = PyDict_GetItemWithError(f->codes, value);
    if (code == NULL && PyErr_Occurred()) return -1;
    *out = code ? PyFloat_AS_DOUBLE(code) : f->unseen;
    return 0;
}

/* One value of a list, which what it holds may change while it is read */
static int read_item(const Field *f, PyObject *fast, Py_ssize_t i, double *out)
{
    if (i >= PySequence_Fast_GET_SIZE(fast)) {
        PyErr_SetString(PyExc_ValueError, "a list of values became shorter while it was read");
        return -1;
    }
    PyObject *value = Py_NewRef(PySequence_Fast_GET_ITEM(fast, i));
    int failed = read_value(f, value, out);
    Py_DECREF(value);
    return failed;
}

static PyObject *refuse(Py_ssize_t slot, Py_ssize_t row)
{
    PyObject *args = Py_BuildValue("nn", slot, row);
    if (args) PyErr_SetObject(Refused, args);
    Py_XDECREF(args);
    return NULL;
}

static PyObject *walk_row(Walk *w, PyObject *values)
{
    double small[SMALL], *v = small;
    PyObject *answer = NULL, *fast = PySequence_Fast(values, "a row is a sequence of values");
    if (!fast) return NULL;
    if (PySequence_Fast_GET_SIZE(fast) != w->fields) {
        PyErr_Format(PyExc_ValueError, "a row has %zd values, not %zd", w->fields, PySequence_Fast_GET_SIZE(fast));
        goto done;
    }
    if (w->slots + w->widest > SMALL && !(v = PyMem_Calloc((size_t)(w->slots + w->widest), sizeof(double)))) {
        PyErr_NoMemory();
        goto done;
    }
    for (Py_ssize_t i = 0; i < w->fields; i++) {
        v[i] = 0.0;
        if (w->field[i].role && read_item(w->field + i, fast, i, v + i) < 0) goto done;
    }
    Py_ssize_t slot = 0, row = run(w, v, v + w->slots, 1, 1, &slot);
    if (row >= 0) {
        refuse(slot, row);
        goto done;
    }
    answer = PyTuple_New(w->outputs);
    for (Py_ssize_t o = 0; answer && o < w->outputs; o++) {
        PyObject *number = PyFloat_FromDouble(v[w->output[o]]);
        if (!number) Py_CLEAR(answer);
        else PyTuple_SET_ITEM(answer, o, number);
    }
done:
    if (v != small) PyMem_Free(v);
    Py_DECREF(fast);
    return answer;
}

/* One column: a buffer of doubles is read as it is, anything else as a sequence of Python values. */
typedef struct {
    Py_buffer buffer;
    PyObject *fast;
    Py_ssize_t length;
} Values;

static int open_column(Values *c, PyObject *values, const Field *f)
{
    if (f->role == 1 && PyObject_CheckBuffer(values)) {
        if (PyObject_GetBuffer(values, &c->buffer, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) == 0) {
            if (c->buffer.format && !strcmp(c->buffer.format, "d") && c->buffer.ndim == 1) {
                c->length = c->buffer.len / (Py_ssize_t)sizeof(double);
                return 0;
            }
            PyBuffer_Release(&c->buffer);
        } else
            PyErr_Clear();
        c->buffer.obj = NULL;
    }
    c->fast = PySequence_Fast(values, "a column is a sequence of values");
    if (!c->fast) return -1;
    c->length = PySequence_Fast_GET_SIZE(c->fast);
    return 0;
}

static int read_block(const Walk *w, Values *columns, double *v, Py_ssize_t first, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; i < w->fields; i++) {
        const Values *c = columns + i;
        double *to = v + i * BLOCK;
        if (!w->field[i].role) {
            memset(to, 0, BLOCK * sizeof(double));
        } else if (c->buffer.obj) {
            memcpy(to, (const double *)c->buffer.buf + first, (size_t)n * sizeof(double));
        } else
            for (Py_ssize_t r = 0; r < n; r++)
                if (read_item(w->field + i, c->fast, first + r, to + r) < 0) return -1;
    }
    return 0;
}

static int open_columns(const Walk *w, PyObject *fast, Values *columns)
{
    if (PySequence_Fast_GET_SIZE(fast) != w->fields) {
        PyErr_Format(PyExc_ValueError, "there are %zd columns, not %zd", w->fields, PySequence_Fast_GET_SIZE(fast));
        return -1;
    }
    for (Py_ssize_t i = 0; i < w->fields; i++) {
        if (open_column(columns + i, PySequence_Fast_GET_ITEM(fast, i), w->field + i) < 0) return -1;
        if (columns[i].length != columns[0].length) {
            PyErr_SetString(PyExc_ValueError, "the columns differ in length");
            return -1;
        }
    }
    return 0;
}

static PyObject *walk_columns(Walk *w, PyObject *values)
{
    PyObject *answer = NULL, *fast = PySequence_Fast(values, "columns are a sequence");
    if (!fast) return NULL;
    Values *columns = PyMem_Calloc((size_t)w->fields + 1, sizeof(Values));
    double *v = PyMem_Calloc((size_t)(w->slots + w->widest) * BLOCK, sizeof(double));
    if (!columns || !v) {
        PyErr_NoMemory();
        goto done;
    }
    if (open_columns(w, fast, columns) < 0) goto done;
    Py_ssize_t rows = w->fields ? columns[0].length : 0;
    answer = PyList_New(w->outputs);
    for (Py_ssize_t o = 0; answer && o < w->outputs; o++) {
        PyObject *bytes = PyBytes_FromStringAndSize(NULL, rows * (Py_ssize_t)sizeof(double));
        if (!bytes) Py_CLEAR(answer);
        else PyList_SET_ITEM(answer, o, bytes);
    }
    for (Py_ssize_t first = 0; answer && first < rows; first += BLOCK) {
        Py_ssize_t n = rows - first < BLOCK ? rows - first : BLOCK, slot = 0, refused;
        if (read_block(w, columns, v, first, n) < 0) {
            Py_CLEAR(answer);
            break;
        }
        Py_BEGIN_ALLOW_THREADS
        refused = run(w, v, v + w->slots * BLOCK, BLOCK, n, &slot);
        Py_END_ALLOW_THREADS
        if (refused >= 0) {
            Py_CLEAR(answer);
            refuse(slot, first + refused);
            break;
        }
        for (Py_ssize_t o = 0; o < w->outputs; o++)
            memcpy(
                PyBytes_AS_STRING(PyList_GET_ITEM(answer, o)) + first * (Py_ssize_t)sizeof(double),
                v + w->output[o] * BLOCK, (size_t)n * sizeof(double));
    }
done:
    for (Py_ssize_t i = 0; columns && i < w->fields; i++) {
        if (columns[i].buffer.obj) PyBuffer_Release(&columns[i].buffer);
        Py_XDECREF(columns[i].fast);
    }
    PyMem_Free(columns);
    PyMem_Free(v);
    Py_DECREF(fast);
    return answer;
}

/* ---- taking over a plan ---------------------------------------------------------------------------------------------- */

static int bad(const char *why)
{
    PyErr_Format(PyExc_ValueError, "this plan cannot be walked: %s", why);
    return -1;
}

/* A copy of an array; *count becomes its length. */
static void *copy_array(PyObject *from, const char *format, size_t width, Py_ssize_t *count)
{
    Py_buffer b;
    if (PyObject_GetBuffer(from, &b, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0) return NULL;
    void *to = NULL;
    if (!b.format || strcmp(b.format, format) || (size_t)b.itemsize != width)
        bad("an array has another type");
    else if (!(to = PyMem_Malloc((size_t)b.len + width)))
        PyErr_NoMemory();
    else {
        memcpy(to, b.buf, (size_t)b.len);
        *count = b.len / (Py_ssize_t)width;
    }
    PyBuffer_Release(&b);
    return to;
}

/* A copy of a tuple of whole numbers from 0 to most - 1. */
static Py_ssize_t *copy_whole(PyObject *from, Py_ssize_t most, Py_ssize_t *count)
{
    if (!PyTuple_Check(from)) return bad("a list of slots is no tuple"), NULL;
    *count = PyTuple_GET_SIZE(from);
    Py_ssize_t *to = PyMem_Calloc((size_t)*count + 1, sizeof(Py_ssize_t));
    if (!to) return PyErr_NoMemory(), NULL;
    for (Py_ssize_t i = 0; i < *count; i++) {
        to[i] = PyLong_AsSsize_t(PyTuple_GET_ITEM(from, i));
        if ((to[i] == -1 && PyErr_Occurred()) || to[i] < 0 || to[i] >= most) {
            PyMem_Free(to);
            if (!PyErr_Occurred()) bad("a slot or number is out of range");
            return NULL;
        }
    }
    return to;
}

static int take_field(Walk *w, Py_ssize_t i, PyObject *levels)
{
    Field *f = w->field + i;
    f->role = levels == Py_None ? 0 : PyList_Check(levels) ? 2 : 1;
    if (f->role != 2) return 0;
    Py_ssize_t n = PyList_GET_SIZE(levels);
    f->unseen = (double)n, f->missing = (double)(n + 1);
    w->codes[i] = n + 2;
    if (!(f->codes = PyDict_New())) return -1;
    for (Py_ssize_t k = 0; k < n; k++) {
        PyObject *code = PyFloat_FromDouble((double)k);
        int failed = !code || PyDict_SetItem(f->codes, PyList_GET_ITEM(levels, k), code) < 0;
        Py_XDECREF(code);
        if (failed) return -1;
    }
    return 0;
}

static int take_fields(Walk *w, PyObject *fields)
{
    if (!PyList_Check(fields)) return bad("the fields are no list");
    w->fields = PyList_GET_SIZE(fields);
    w->field = PyMem_Calloc((size_t)w->fields + 1, sizeof(Field));
    w->codes = PyMem_Calloc((size_t)w->fields + 1, sizeof(Py_ssize_t));
    if (!w->field || !w->codes) return PyErr_NoMemory(), -1;
    for (Py_ssize_t i = 0; i < w->fields; i++)
        if (take_field(w, i, PyList_GET_ITEM(fields, i)) < 0) return -1;
    w->slots = w->fields;
    return 0;
}

/* The arrays of all trees as they came; only while a plan is taken over. */
typedef struct {
    Py_ssize_t count;
    uint8_t *kind;
    int32_t *slot, *left;
    double *cut;
} Raw;

static int take_nodes(Walk *w, PyObject *arrays, Raw *raw)
{
    PyObject *kind, *slot, *cut, *left, *leaves, *sets, *roots;
    Py_ssize_t n = 0, m = 0, k = 0;
    if (!PyArg_ParseTuple(arrays, "OOOOOOO", &kind, &slot, &cut, &left, &leaves, &sets, &roots)) return -1;
    if (!(raw->kind = copy_array(kind, "B", 1, &raw->count)) || !(raw->slot = copy_array(slot, "i", 4, &n))) return -1;
    if (!(raw->cut = copy_array(cut, "d", 8, &m)) || !(raw->left = copy_array(left, "i", 4, &k))) return -1;
    if (!(w->leaf = copy_array(leaves, "d", 8, &w->leaves)) || !(w->set = copy_array(sets, "Q", 8, &w->sets))) return -1;
    if (!(w->root = copy_array(roots, "i", 4, &w->roots))) return -1;
    return n != raw->count || m != n || k != n ? bad("its node arrays differ in length") : 0;
}

/* The column for a question: one that is there already, or a new one. `seen` remembers by slot and kind, or by set. */
static int32_t column_for(Step *s, int32_t *seen, Py_ssize_t place, Column wanted)
{
    int32_t c = seen[place] - 1;
    if (c >= 0 && s->column[c].slot == wanted.slot) return c;
    s->column[s->columns] = wanted;
    seen[place] = (int32_t)++s->columns;
    return (int32_t)s->columns - 1;
}

static int take_node(Walk *w, Step *s, const Raw *raw, int32_t *seen, Py_ssize_t i)
{
    Py_ssize_t first = s->whole[2], slot = raw->slot[i], kind = raw->kind[i], left = raw->left[i], words, place;
    double cut = raw->cut[i];
    Node *node = s->node + (i - first);
    if (kind == LEAF) {
        if (left < 0 || left > w->leaves - s->outputs) return bad("a leaf is outside the plan");
        s->leaf[i - first] = (int32_t)left;
        *node = (Node){NAN, (int32_t)(i - first) - 1, 0};
        return 0;
    }
    if (kind > AMONG) return bad("a node asks an unknown question");
    if (slot < 0 || slot >= s->out) return bad("a node asks about a slot that is not filled yet");
    if (left <= i || left + 1 >= s->whole[3]) return bad("a node has children outside its forest");
    words = (w->codes[slot] + 63) / 64;
    if (kind == AMONG && (!words || !(cut >= 0.0 && cut <= (double)(w->sets - words)))) return bad("a node has no such set");
    place = kind == AMONG ? 2 * w->slots + (Py_ssize_t)cut : 2 * slot + (kind == BELOW);
    Column wanted = {slot, kind == AMONG ? (Py_ssize_t)cut : 0, (int)kind};
    *node = (Node){kind == AMONG ? 0.5 : cut, (int32_t)(left - first), column_for(s, seen, place, wanted)};
    return 0;
}

static int take_trees(Walk *w, Step *s, const Raw *raw)
{
    const Py_ssize_t *at = s->whole;
    if (at[1] < 1 || at[0] > w->roots - at[1]) return bad("roots outside the plan");
    if (at[2] >= at[3] || at[3] > raw->count) return bad("nodes outside the plan");
    for (Py_ssize_t t = at[0]; t < at[0] + at[1]; t++)
        if (w->root[t] < at[2] || w->root[t] >= at[3]) return bad("a root in another forest");
    size_t nodes = (size_t)(at[3] - at[2]);
    int32_t *seen = PyMem_Calloc((size_t)(2 * w->slots + w->sets + 1), sizeof(int32_t));
    s->node = PyMem_Calloc(nodes, sizeof(Node));
    s->leaf = PyMem_Calloc(nodes, sizeof(int32_t));
    s->column = PyMem_Calloc(nodes + 1, sizeof(Column)); /* at most one a node */
    int failed = !seen || !s->node || !s->leaf || !s->column ? (PyErr_NoMemory(), -1) : 0;
    for (Py_ssize_t i = at[2]; !failed && i < at[3]; i++) failed = take_node(w, s, raw, seen, i);
    PyMem_Free(seen);
    if (!failed && !s->columns) s->column[s->columns++] = (Column){0, 0, BELOW}; /* for leaves to look at */
    Column *fitting = failed ? NULL : PyMem_Realloc(s->column, (size_t)(s->columns + 1) * sizeof(Column));
    if (fitting) s->column = fitting;
    if (s->columns > w->widest) w->widest = s->columns;
    return failed;
}

/* Do the inputs and numbers of a step fit its op? Sets how many slots it fills. */
static int shape(Step *s, Py_ssize_t whole)
{
    Py_ssize_t n = s->inputs, k = s->numbers, degree = s->whole[0];
    s->outputs = 1;
    switch (s->op) {
    case GUARD: s->outputs = 0; return n == 1 && k == 3 && whole == 0;
    case TIMES: return n == 2 && k == 0 && whole == 0;
    case PLUS: case ARGMAX: return n > 0 && k == 0 && whole == 0;
    case MEAN: return n > 0 && k == n + 1 && whole == 0;
    case SOFTMAX: s->outputs = n; return n > 0 && k == 0 && whole == 0;
    case SHARE: s->outputs = n; return n > 0 && k == 0 && whole == 1;
    case LINEAR: s->outputs = k / (n + 1); return n > 0 && k > 0 && k % (n + 1) == 0 && whole == 0;
    case QUADRATIC: s->outputs = k / (2 * n + 1); return n > 0 && k > 0 && k % (2 * n + 1) == 0 && whole == 0;
    case TREES: s->outputs = k; return n == 0 && k > 0 && whole == 4;
    case CODE: return n == 1 && whole == 0;
    case TABLE: case PICK: return n == 1 && k > 0 && whole == 0;
    case QUANTILE: return n == 1 && k >= 4 && k % 2 == 0 && whole == 1;
    case PIECE: return n == 1 && whole == 1 && degree > 0 && degree < 9 && k >= degree + 2 && (k + 1) % (degree + 3) == 0;
    case CLIP: return n == 1 && k == 2 && whole == 0;
    default: return n == 1 && k == (s->op >= ADD) && whole == 0;
    }
}

static Py_ssize_t codes_of(const Step *s)
{
    double most = -1.0;
    if (s->op == CODE) return s->numbers + 2;
    if (s->op == ARGMAX) return s->inputs;
    if (s->op != PICK) return 0;
    for (Py_ssize_t i = 0; i < s->numbers; i++)
        if (s->number[i] > most) most = s->number[i];
    return most >= 0.0 && most < 1e9 ? (Py_ssize_t)most + 1 : 0;
}

static int take_step(Walk *w, Step *s, const Raw *raw, PyObject *op)
{
    PyObject *name, *inputs, *numbers, *whole;
    Py_ssize_t wholes = 0, *w4;
    if (!PyArg_ParseTuple(op, "UOOO", &name, &inputs, &numbers, &whole)) return -1;
    for (s->op = 0; s->op < OPS && PyUnicode_CompareWithASCIIString(name, NAMES[s->op]); s->op++) {}
    if (s->op == OPS) return bad("an unknown step");
    if (!(s->input = copy_whole(inputs, w->slots, &s->inputs))) return -1;
    if (!(s->number = copy_array(numbers, "d", 8, &s->numbers))) return -1;
    if (!(w4 = copy_whole(whole, INT32_MAX, &wholes))) return -1;
    for (Py_ssize_t i = 0; i < wholes && i < 4; i++) s->whole[i] = w4[i];
    PyMem_Free(w4);
    s->out = w->slots;
    if (!shape(s, wholes)) return bad("a step with the wrong number of inputs or numbers");
    if (s->op == TREES && take_trees(w, s, raw) < 0) return -1;
    Py_ssize_t *codes = PyMem_Realloc(w->codes, (size_t)(w->slots + s->outputs + 1) * sizeof(Py_ssize_t));
    if (!codes) return PyErr_NoMemory(), -1;
    w->codes = codes;
    for (Py_ssize_t k = 0; k < s->outputs; k++) codes[w->slots++] = codes_of(s);
    return 0;
}

static int take_plan(Walk *w, Raw *raw, PyObject *args)
{
    PyObject *fields, *ops, *outputs, *arrays;
    if (!PyArg_ParseTuple(args, "OOOO", &fields, &ops, &outputs, &arrays)) return -1;
    if (take_fields(w, fields) < 0 || take_nodes(w, arrays, raw) < 0) return -1;
    if (!PyList_Check(ops)) return bad("the steps are no list");
    Py_ssize_t steps = PyList_GET_SIZE(ops);
    if (!(w->step = PyMem_Calloc((size_t)steps + 1, sizeof(Step)))) return PyErr_NoMemory(), -1;
    for (w->steps = 0; w->steps < steps;) {
        Step *s = w->step + w->steps++;
        if (take_step(w, s, raw, PyList_GET_ITEM(ops, w->steps - 1)) < 0) return -1;
        if (w->slots + w->widest > 1 << 24) return bad("too many slots");
    }
    return (w->output = copy_whole(outputs, w->slots, &w->outputs)) ? 0 : -1;
}

static int walk_init(Walk *w, PyObject *args, PyObject *kwargs)
{
    Raw raw = {0};
    if (w->field) return bad("it was taken over already");
    int failed = take_plan(w, &raw, args);
    PyMem_Free(raw.kind), PyMem_Free(raw.slot), PyMem_Free(raw.left), PyMem_Free(raw.cut);
    return failed;
}

static void walk_free(Walk *w)
{
    for (Py_ssize_t i = 0; w->field && i < w->fields; i++) Py_XDECREF(w->field[i].codes);
    for (Step *s = w->step; s && s < w->step + w->steps; s++) {
        PyMem_Free(s->input), PyMem_Free(s->number);
        PyMem_Free(s->column), PyMem_Free(s->node), PyMem_Free(s->leaf);
    }
    PyMem_Free(w->field), PyMem_Free(w->step), PyMem_Free(w->output), PyMem_Free(w->codes);
    PyMem_Free(w->leaf), PyMem_Free(w->set), PyMem_Free(w->root);
    PyTypeObject *type = Py_TYPE(w);
    type->tp_free((PyObject *)w);
    Py_DECREF(type);
}

/* ---- the module -------------------------------------------------------------------------------------------------------- */

/* Without a complete plan there is nothing to walk. */
static PyObject *row(PyObject *self, PyObject *values)
{
    Walk *w = (Walk *)self;
    return w->output ? walk_row(w, values) : (bad("it is not complete"), NULL);
}

static PyObject *columns(PyObject *self, PyObject *values)
{
    Walk *w = (Walk *)self;
    return w->output ? walk_columns(w, values) : (bad("it is not complete"), NULL);
}

static PyMethodDef METHODS[] = {
    {"row", row, METH_O, "Outputs for one row: values in, a tuple of floats out"},
    {"columns", columns, METH_O, "Outputs for many rows: one sequence a field in, the doubles of each output as bytes out"},
    {NULL, NULL, 0, NULL},
};

static PyObject *give_back(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(none))
{
#if defined(__GLIBC__)
    Py_BEGIN_ALLOW_THREADS
    malloc_trim(0);
    Py_END_ALLOW_THREADS
#endif
    Py_RETURN_NONE;
}

static PyMethodDef FUNCTIONS[] = {
    {"give_back", give_back, METH_NOARGS, "Give memory that nobody uses back to the system, where the C library can"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot SLOTS[] = {
    {Py_tp_init, walk_init}, {Py_tp_dealloc, walk_free}, {Py_tp_methods, METHODS}, {Py_tp_new, PyType_GenericNew}, {0, NULL},
};

static PyType_Spec SPEC = {"mlserve._walk.Walk", sizeof(Walk), 0, Py_TPFLAGS_DEFAULT, SLOTS};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "mlserve._walk", "The compiled walk", -1, FUNCTIONS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__walk(void)
{
    PyObject *module = PyModule_Create(&MODULE), *type = module ? PyType_FromSpec(&SPEC) : NULL;
    if (!type) return Py_XDECREF(module), NULL;
    Refused = PyErr_NewException("mlserve._walk.Refused", NULL, NULL);
    if (!Refused || PyModule_AddObject(module, "Walk", type) < 0 || PyModule_AddObjectRef(module, "Refused", Refused) < 0)
        return Py_DECREF(module), NULL;
    return module;
}
