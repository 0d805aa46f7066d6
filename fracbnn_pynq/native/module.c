/* The Python face, on the stable ABI. Arrays come as addresses; the Python side has checked them
 * (the stable ABI has the buffer protocol from 3.11 only, and this package supports 3.10).
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string.h>

#include "fracbnn.h"
#include "team.h"

static PyObject *engines(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    PyObject *names = PyList_New(0);
    for (const struct fb_engine *e = fb_engines(); names != NULL && e->name != NULL; e++) {
        PyObject *item = Py_BuildValue("(ss)", e->name, e->layout);
        if (item == NULL || PyList_Append(names, item) < 0)
            Py_CLEAR(names);
        Py_XDECREF(item);
    }
    return names;
}

/* The engine called `name`; null and an exception where this processor has none. */
static const struct fb_engine *find_engine(const char *name)
{
    const struct fb_engine *engine = fb_engines();
    while (engine->name != NULL && strcmp(engine->name, name) != 0)
        engine++;
    if (engine->name == NULL) {
        PyErr_Format(PyExc_ValueError, "this processor has no engine %s", name);
        return NULL;
    }
    return engine;
}

static PyObject *prepared_size(PyObject *self, PyObject *args)
{
    (void)self;
    const char *name;
    Py_ssize_t plan;
    if (!PyArg_ParseTuple(args, "sn", &name, &plan))
        return NULL;
    const struct fb_engine *engine = find_engine(name);
    if (engine == NULL)
        return NULL;
    return PyLong_FromLongLong(
        engine->prepared_size == NULL ? 0 : engine->prepared_size(FB_POINTER(const struct fb_plan, plan)));
}

static PyObject *prepare(PyObject *self, PyObject *args)
{
    (void)self;
    const char *name;
    Py_ssize_t plan, block;
    if (!PyArg_ParseTuple(args, "snn", &name, &plan, &block))
        return NULL;
    const struct fb_engine *engine = find_engine(name);
    if (engine == NULL)
        return NULL;
    if (engine->prepare != NULL)
        engine->prepare(FB_POINTER(const struct fb_plan, plan), FB_POINTER(void, block));
    Py_RETURN_NONE;
}

static const char TEAM[] = "fracbnn team";

static void free_team(PyObject *capsule)
{
    fb_free_team(PyCapsule_GetPointer(capsule, TEAM));
}

static PyObject *team(PyObject *self, PyObject *args)
{
    (void)self;
    int pieces;
    if (!PyArg_ParseTuple(args, "p", &pieces))
        return NULL;
    struct fb_team *made = fb_new_team(pieces);
    if (made == NULL)
        return PyErr_NoMemory();
    PyObject *capsule = PyCapsule_New(made, TEAM, free_team);
    if (capsule == NULL)
        fb_free_team(made);
    return capsule;
}

/* The capsule is among the arguments, and so alive, until these return. */
static PyObject *help(PyObject *self, PyObject *capsule)
{
    (void)self;
    struct fb_team *shared = PyCapsule_GetPointer(capsule, TEAM);
    if (shared == NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    fb_help(shared);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *dismiss(PyObject *self, PyObject *capsule)
{
    (void)self;
    struct fb_team *shared = PyCapsule_GetPointer(capsule, TEAM);
    if (shared == NULL)
        return NULL;
    fb_dismiss(shared);
    Py_RETURN_NONE;
}

static PyObject *run(PyObject *self, PyObject *args)
{
    (void)self;
    const char *name;
    Py_ssize_t plan, levels, pictures, count, logits, codes;
    PyObject *capsule;
    if (!PyArg_ParseTuple(args, "snnnnnnO", &name, &plan, &levels, &pictures, &count, &logits, &codes, &capsule))
        return NULL;
    const struct fb_engine *engine = find_engine(name);
    struct fb_team *shared = capsule == Py_None ? NULL : PyCapsule_GetPointer(capsule, TEAM);
    if (engine == NULL || (shared == NULL && capsule != Py_None))
        return NULL;
    int status;
    Py_BEGIN_ALLOW_THREADS
    status = engine->run(FB_POINTER(const struct fb_plan, plan), FB_POINTER(const uint8_t, levels),
                         FB_POINTER(const uint8_t, pictures), count, FB_POINTER(float, logits),
                         FB_POINTER(uint8_t, codes), shared);
    Py_END_ALLOW_THREADS
    if (status < 0)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *run_layer(PyObject *self, PyObject *args)
{
    (void)self;
    const char *name;
    Py_ssize_t layer, codes, count, sums, output;
    if (!PyArg_ParseTuple(args, "snnnnn", &name, &layer, &codes, &count, &sums, &output))
        return NULL;
    const struct fb_engine *engine = find_engine(name);
    if (engine == NULL)
        return NULL;
    int status;
    Py_BEGIN_ALLOW_THREADS
    status = engine->one(FB_POINTER(const struct fb_layer, layer), FB_POINTER(const uint8_t, codes), count,
                         FB_POINTER(int32_t, sums), FB_POINTER(uint8_t, output));
    Py_END_ALLOW_THREADS
    if (status < 0)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *fit(PyObject *self, PyObject *args)
{
    (void)self;
    Py_ssize_t layer, first, stop;
    if (!PyArg_ParseTuple(args, "nnn", &layer, &first, &stop))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    fb_best_fit()(FB_POINTER(const struct fb_fit_layer, layer), first, stop);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *area_mean(PyObject *self, PyObject *args)
{
    (void)self;
    Py_ssize_t picture, row_bytes, edge, size, result;
    if (!PyArg_ParseTuple(args, "nnnnn", &picture, &row_bytes, &edge, &size, &result))
        return NULL;
    int status;
    Py_BEGIN_ALLOW_THREADS
    status = fb_area_mean(FB_POINTER(const uint8_t, picture), row_bytes, edge, size, FB_POINTER(uint8_t, result));
    Py_END_ALLOW_THREADS
    if (status < 0)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* Called for every picture an accelerator computes, so without a format to parse; `kept` holds what the plan's addresses
 * point to. A small picture takes less time than letting the GIL go. */
static PyObject *encode_words(PyObject *self, PyObject *const *args, Py_ssize_t given)
{
    (void)self;
    if (given != 4) {
        PyErr_SetString(PyExc_TypeError, "encode_words(plan, kept, slot, index)");
        return NULL;
    }
    const Py_ssize_t address = PyLong_AsSsize_t(args[0]), slot = PyLong_AsSsize_t(args[2]),
                     index = PyLong_AsSsize_t(args[3]);
    if (PyErr_Occurred())
        return NULL;
    const struct fb_words *plan = FB_POINTER(const struct fb_words, address);
    if (slot < 0 || slot >= plan->slots || index < 0 || index >= plan->count) {
        PyErr_Format(PyExc_IndexError, "expected a slot below %d and a picture below %zd, found %zd and %zd",
                     (int)plan->slots, (Py_ssize_t)plan->count, slot, index);
        return NULL;
    }
    PyThreadState *state = plan->pixels > 4096 ? PyEval_SaveThread() : NULL;
    fb_encode_words(plan, slot, index);
    if (state != NULL)
        PyEval_RestoreThread(state);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"area_mean", area_mean, METH_VARARGS, "area_mean(picture, row bytes, edge, size, result): addresses, GIL released"},
    {"dismiss", dismiss, METH_O, "dismiss(team): let its helpers go"},
    {"encode_words", (PyCFunction)(void (*)(void))encode_words, METH_FASTCALL,
     "encode_words(plan, kept, slot, index): of a struct fb_words; GIL released for large pictures"},
    {"engines", engines, METH_NOARGS, "engines() -> [(name, layout of the weights)], best first"},
    {"fit", fit, METH_VARARGS, "fit(layer, first channel, stop): addresses, GIL released"},
    {"help", help, METH_O, "help(team): until it is dismissed, GIL released"},
    {"prepare", prepare, METH_VARARGS, "prepare(engine, plan, block): fill in a block of prepared_size bytes"},
    {"prepared_size", prepared_size, METH_VARARGS, "prepared_size(engine, plan) -> bytes; 0: nothing to prepare"},
    {"run_layer", run_layer, METH_VARARGS, "run_layer(engine, layer, codes, count, sums, output): addresses, GIL released"},
    {"run", run, METH_VARARGS,
     "run(engine, plan, levels, pictures, count, logits, codes, team or None): addresses, GIL released"},
    {"team", team, METH_VARARGS, "team(pieces): threads that share a batch's pictures, or each picture's pieces"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "Native kernels of the CPU backend.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModule_Create(&definition);
}
